"""The public listening sockets: bound once by control, accepted from by every worker."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from proxy.control import ownership
from proxy.core.address import Address
from proxy.errors import AddressInUseError, ProxyError
from proxy.kernel import procfs, sock_diag
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

# The kernel caps it at net.core.somaxconn (listen(2)).
BACKLOG = 65535

# Keep-alive on the client's side finds peers that vanished without a word; accepted sockets inherit it (tcp(7)).
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 60, 15, 4


class BindError(ProxyError):
    code = "bind"


def bind(address: Address, *, blocking: bool = False) -> socket.socket:
    """Return a listening socket. Raises AddressInUseError, which names the holder, or BindError.

    `blocking`: backends accept on it, and expect it as service managers hand it to them (systemd.exec(5), NonBlocking).
    """
    try:
        listener = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _explain(address, error) from error
    try:
        if address.is_unix:
            _remove_stale(address)
        else:
            _set_options(listener)
        listener.bind(address.sockaddr)
        listener.listen(BACKLOG)
        listener.setblocking(blocking)
    except OSError as error:
        listener.close()
        raise _explain(address, error) from error
    except BaseException:
        listener.close()
        raise
    return listener


def close(address: Address, listener: socket.socket, *, is_ours: bool = True) -> None:
    """Close a listener; the file of a Unix socket that is not ours to remove stays."""
    listener.close()
    if address.is_unix and is_ours:
        try:
            os.unlink(address.path)
        except OSError as error:
            log.warning("socket file not removed", extra=facts(file=address.path, reason=error.strerror))


def listen_again(service: str, listeners: Mapping[str, socket.socket]) -> None:
    """Where a backend has shut its copy of a listener down (shutdown(2)), instead of just closing it, that was the end
    of it for everybody: begin anew.
    """
    for address, listener in listeners.items():
        if listener.fileno() < 0 or listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            continue
        try:
            listener.listen(BACKLOG)
        except OSError as error:
            reason = error.strerror or error
            log.error("nobody listens any more", extra=facts(service=service, address=address, reason=reason))
        else:
            extra = facts(service=service, address=address)
            log.warning("a backend shut the public listener down; listening again", extra=extra)


def bound_address(address: Address, listener: socket.socket) -> Address:
    """What the kernel chose where the config says port 0."""
    if address.is_unix or address.port:
        return address
    return Address(host=address.host, port=listener.getsockname()[1])


def _set_options(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if listener.family == socket.AF_INET6:
        # So that "0.0.0.0:80" and "[::]:80" can stand side by side.
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _remove_stale(address: Address) -> None:
    """Remove a socket file that nobody accepts on any more; anything else in that place is left for bind to refuse."""
    try:
        if not stat.S_ISSOCK(os.stat(address.path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            os.unlink(address.path)


def _explain(address: Address, error: OSError) -> ProxyError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(
            f"{address} is taken{_holders(address)}",
            hint="stop what holds it, or choose another address for `listen`",
        )
    if error.errno == errno.EACCES and not address.is_unix:
        return BindError(
            f"{address}: this user may not listen on a port below 1024",
            hint="run as root, give the Python interpreter CAP_NET_BIND_SERVICE, or use a higher port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(f"{address}: this machine has no such address", hint="`ip address` lists those it has")
    return BindError(f"{address}: {error.strerror or error}", hint="check `listen` in the config")


def _holders(address: Address) -> str:
    """Name whoever listens on the port, on whichever address of it, as far as this user may see."""
    if address.is_unix:
        pids = ownership.holders(address)
    else:
        inodes = [listener.inode for listener in sock_diag.tcp_listeners(address.port)]
        pids = set().union(*procfs.socket_owners(inodes).values())
    named = ", ".join(ownership.describe(pid) for pid in sorted(pids - {os.getpid()}))
    return f" by {named}" if named else " by a process that this user may not see"
