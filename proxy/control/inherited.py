"""Listeners that were open before this image of the control process, each for whoever is configured to have it.

They come from the service manager (activation.py), from the image before an exec (packed.py), or from the workers that
outlived an earlier control process (`add`). The same socket may come in several of these ways.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.control import activation, packed
from proxy.core.address import Address

if TYPE_CHECKING:
    from collections.abc import MutableMapping


@dataclass(eq=False)
class _Listener:
    """`service` is "" where nobody said whose it is, `address` as the config has it, "" where only the kernel knows."""

    sock: socket.socket
    origin: str
    service: str = ""
    address: str = ""
    taken: bool = False


class Inherited:
    """`lock` is the descriptor of the state folder's lock, if it was handed on; `control` the API's listeners.

    `activated` are the Unix sockets, as addresses, whose files belong to the service manager: they are not removed.
    """

    def __init__(self) -> None:
        self.lock: int | None = None
        self.control: dict[str, socket.socket] = {}
        self.activated: set[str] = set()
        self._listeners: dict[int, _Listener] = {}  # by inode: one for each socket, however often it came

    def add(self, service: str, address: str, sock: socket.socket, *, origin: str = "") -> None:
        """Put in what somebody had open for a service, at an address as the config has it ("" if nobody knows).

        Takes `sock` over: one that is here already is closed.
        """
        inode = os.fstat(sock.fileno()).st_ino
        known = self._listeners.setdefault(inode, _Listener(sock, origin or "left open by an earlier run"))
        if known.sock is not sock:
            sock.close()
        known.service, known.address = service or known.service, address or known.address

    def take(self, service: str, address: Address) -> socket.socket | None:
        """Return the listener for this address of this service; from now on it is the caller's.

        It is one that was open for exactly that, else one of that service, or of nobody in particular, which is bound
        there. "0.0.0.0:80" is content with a socket on [::]:80 that takes IPv4 as well (IPV6_V6ONLY off, as systemd's
        ListenStream=80 has it); "[::]:80" may have that one too.
        """
        ranked = [(rank, each) for each in self._listeners.values() if (rank := _rank(each, service, address))]
        if not ranked:
            return None
        found = min(ranked, key=lambda pair: pair[0])[1]
        if found.taken:
            return found.sock.dup()
        found.service, found.taken = service, True
        return found.sock

    def take_control(self, address: str) -> socket.socket | None:
        """The same for the API's listeners, by address."""
        return self.control.pop(address, None)

    def unused(self) -> list[str]:
        """Describe what nobody has taken."""
        left = [each for each in self._listeners.values() if not each.taken]
        described = [f"{_bound(each.sock)} ({each.service or 'no service'}, {each.origin})" for each in left]
        return described + [f"{address} (the API's)" for address in self.control]

    def close(self) -> None:
        """Close what nobody has taken; nothing can be taken any more."""
        for each in self._listeners.values():
            if not each.taken:
                each.sock.close()
        self._listeners.clear()
        while self.control:
            self.control.popitem()[1].close()


def from_environment(environ: MutableMapping[str, str]) -> Inherited:
    """Take what the service manager or an exec left, and the variables that say so out of `environ`.

    Raises ActivationError. What an exec left is never an error: it is logged, and done without.
    """
    inherited = Inherited()
    handed_on = packed.unpack(environ)
    inherited.lock, inherited.control, inherited.activated = handed_on.lock, handed_on.control, handed_on.activated
    for service, address, sock in handed_on.listeners:
        inherited.add(service, address, sock, origin="from before the exec")
    for name, sock in activation.take(environ):
        if sock.family == socket.AF_UNIX:
            inherited.activated.add(str(_bound(sock)))
        inherited.add(name, "", sock, origin="from the service manager")
    return inherited


def _rank(listener: _Listener, service: str, address: Address) -> int:
    """How well a listener fits: 1 is best, 0 not at all."""
    if listener.service not in {service, ""} or listener.sock.fileno() < 0:
        return 0
    bound, wanted = _bound(listener.sock), str(address)
    both = _takes_both(listener.sock) and address.host in {"0.0.0.0", "::"} and address.port in {0, bound.port}  # noqa: S104
    if listener.taken:
        return 6 if both else 0
    if listener.service and listener.address == wanted:
        return 1
    if str(bound) == wanted or (not address.port and not address.is_unix and bound.host == address.host):
        return 2 if listener.service else 3
    return (4 if listener.service else 5) if both else 0


def _bound(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address(path=name if isinstance(name, str) else "@" + name[1:].decode(errors="replace"))
    return Address(host=str(ipaddress.ip_address(name[0].partition("%")[0])), port=name[1])


def _takes_both(sock: socket.socket) -> bool:
    """Whether it is an IPv6 wildcard that takes IPv4 as well (ipv6(7))."""
    return (
        sock.family == socket.AF_INET6
        and ipaddress.ip_address(sock.getsockname()[0]).is_unspecified
        and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    )
