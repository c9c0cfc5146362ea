"""TCP connections as the kernel lists, counts and closes them (sock_diag(7)), whichever process they belong to.

All of it is about the network namespace of the calling thread. Marks are those of SO_MARK (socket(7)): an accepted
connection has the mark of the socket that it was accepted from, from its first SYN on. CAP_NET_ADMIN, in the user
namespace that owns the network namespace, is needed to ask for marks and to close what is another's (PermissionError
without it), and to see marks (without it they read as 0).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from proxy.kernel import inet_dump, netlink
from proxy.kernel.inet_dump import State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_SOCK_DESTROY = 21
_INFO, _MARK = 2, 15  # INET_DIAG_INFO, INET_DIAG_MARK
_SHOW_INFO = 1 << _INFO - 1

# inet_diag_msg behind its nlmsghdr: family, state, inet_diag_sockid (local port, remote port, local address, remote
# address, interface, cookie) and inode.
_MESSAGE = struct.Struct("=16xBBxx2s2s16s16s4xQ16xI")
_SOCKID = slice(20, 68)
_TCP_INFO = struct.Struct("=44xI4xI64xQQ")  # tcpi_last_data_sent, _last_data_recv, _bytes_acked, _bytes_received
_MARK_HEADER = int.from_bytes(struct.pack("=HH", 8, _MARK), sys.byteorder)

_OPEN = frozenset({State.ESTABLISHED, State.CLOSE_WAIT})
_HALF_CLOSED = frozenset({State.FIN_WAIT1, State.FIN_WAIT2})
LIVE = sum(1 << state for state in (*_OPEN, *_HALF_CLOSED, State.SYN_RECV))


class Tally(NamedTuple):
    """Connections that live. `open`: a process has them; `waiting`: in an accept queue; `half_open`: in a handshake.

    Handshakes that are answered with SYN cookies (tcp(7)), as under a flood, are known to nobody until they are done.
    """

    open: int = 0
    waiting: int = 0
    half_open: int = 0


@dataclass(frozen=True, slots=True)
class Connection:
    """One end of a connection.

    An IPv4 connection of an IPv6 socket has IPv4 addresses here. `inode` leads to the processes that hold it; 0: none
    does yet, or none any more. `cookie` is never used again while the machine runs. `received`, `sent` (bytes that the
    other side has acknowledged; a FIN counts as one) and `idle` (seconds since data came or went) are 0 unless asked
    for.
    """

    family: int
    state: State
    local: tuple[str, int]
    remote: tuple[str, int]
    inode: int
    mark: int
    cookie: int
    identity: bytes  # the socket's family, and its inet_diag_sockid as the kernel wrote it
    received: int = 0
    sent: int = 0
    idle: float = 0.0

    @property
    def is_live(self) -> bool:
        """Established, and not given up by its owner: one that was half-closed by it, and is still held, lives."""
        return self._kind in {"open", "waiting"}

    @property
    def is_waiting(self) -> bool:
        """Established, and not accepted yet."""
        return self._kind == "waiting"

    @property
    def is_half_open(self) -> bool:
        return self._kind == "half_open"

    @property
    def _kind(self) -> str:
        return _kind(self.state, held=self.inode != 0)


class _Row(NamedTuple):
    """What is counted alike. `header` is that of the attribute whose value `mark` is."""

    family: int
    state: int
    port: bytes
    address: bytes
    header: int
    mark: int


def connections(
    *, marks: Collection[int] | None = None, ports: Collection[int] = (), states: int = LIVE, info: bool = False
) -> list[Connection]:
    """Connections with one of these marks (None: any) and local ports (none: any), IPv4 and IPv6.

    `states`: bits, 1 << State. With LIVE, too, there may be some among them that are neither live nor half-open.
    Raises OSError where the kernel, or this container, has no sock_diag.
    """
    if marks is not None and not marks:
        return []
    found = (
        _connection(run.data[at : at + run.length])
        for run in inet_dump.dump(marks, ports, states, _SHOW_INFO if info else 0)
        for at in range(0, len(run.data), run.stride)
    )
    return [each for each in found if marks is None or each.mark in marks]


def count(*, marks: Collection[int], ports: Collection[int] = ()) -> dict[tuple[int, str, int], Tally]:
    """Live connections by mark, local address and local port: what `connections` would say, for a fraction of the cost.

    Measured on a busy machine: 100 ms of CPU time for 50,000 of them, mostly the kernel's own; 12 ms for 5,000; and
    20 ms to find none among 100,000 sockets with other marks.
    """
    rows: Counter[tuple[_Row, bool]] = Counter()
    for run in inet_dump.dump(marks, ports, LIVE, 0) if marks else ():
        rows.update(_rows(run))
    found: dict[tuple[int, str, int], Tally] = {}
    for (row, held), number in rows.items():
        kind = _kind(row.state, held=held)
        if number and kind and row.mark in marks:
            key = (row.mark, inet_dump.host(row.family, row.address), int.from_bytes(row.port, "big"))
            before = found.get(key, Tally())
            found[key] = before._replace(**{kind: getattr(before, kind) + number})
    return found


def destroy(targets: Iterable[Connection]) -> int:
    """Reset these connections, so that both ends learn it at once (SOCK_DESTROY, Linux 4.5); return how many it were.

    Exactly these: one that is gone is not counted, even if another has the same addresses and ports by now. Raises
    OSError: EOPNOTSUPP where the kernel was built without CONFIG_INET_DIAG_DESTROY, EPERM without CAP_NET_ADMIN.
    """
    requests = (inet_dump.exactly(each.identity[0], each.identity[1:]) for each in targets)
    errors = netlink.ask_each(_SOCK_DESTROY, requests)
    for number in errors:
        if number not in {0, errno.ENOENT}:
            raise OSError(number, os.strerror(number))
    return errors.count(0)


def _kind(state: int, *, held: bool) -> str:
    """The field of a Tally that it counts in; empty for what has ended.

    Held by no process, an established connection is in an accept queue, and one that our side has closed is over: the
    kernel alone sees to the rest. So are the states in which both sides have closed.
    """
    if state == State.SYN_RECV:
        return "half_open"
    if state in _OPEN:
        return "open" if held else "waiting"
    return "open" if held and state in _HALF_CLOSED else ""


def _connection(message: memoryview) -> Connection:
    family, state, port, remote_port, address, remote_address, cookie, inode = _MESSAGE.unpack_from(message)
    mark, received, sent, idle = 0, 0, 0, 0.0
    for kind, start, end in netlink.attributes(message, _MESSAGE.size):
        if kind == _MARK:
            mark = int.from_bytes(message[start:end], sys.byteorder)
        elif kind == _INFO and end - start >= _TCP_INFO.size:
            last_sent, last_received, sent, received = _TCP_INFO.unpack_from(message, start)
            idle = min(last_sent, last_received) / 1000
    local = (inet_dump.host(family, address), int.from_bytes(port, "big"))
    return Connection(
        family=socket.AF_INET6 if ":" in local[0] else socket.AF_INET,
        state=State(state),
        local=local,
        remote=(inet_dump.host(family, remote_address), int.from_bytes(remote_port, "big")),
        inode=inode,
        mark=mark,
        cookie=cookie,
        identity=bytes([family]) + message[_SOCKID],
        received=received,
        sent=sent,
        idle=idle,
    )


def _rows(run: netlink.Run) -> Counter[tuple[_Row, bool]]:
    """How many there are of each kind of row, and whether a process holds them; without a step in Python for each.

    Messages of one length nearly always have the same attributes: the first one says where the mark is.
    """
    mark_at = _mark_at(run.data[: run.length])
    between, behind = mark_at - 4 - _MESSAGE.size, run.stride - mark_at - 4
    without_inode = struct.Struct(f"=16xBBxx2sxx16s48x{between}xII{behind}x")
    with_inode = struct.Struct(f"=16xBBxx2sxx16s44xI{between}xII{behind}x")
    every = Counter(without_inode.iter_unpack(run.data))
    unheld = Counter(row[:4] + row[5:] for row in with_inode.iter_unpack(run.data) if not row[4])
    if any(header != _MARK_HEADER for *_, header, _ in every):
        return sum((_rows(each) for each in run.split()), Counter())
    found = Counter({(_Row(*row), True): number - unheld[row] for row, number in every.items()})
    found.update({(_Row(*row), False): number for row, number in unheld.items()})
    return found


def _mark_at(message: memoryview) -> int:
    for kind, start, _ in netlink.attributes(message, _MESSAGE.size):
        if kind == _MARK:
            return start
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # those who may ask for marks are shown them
