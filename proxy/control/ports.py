"""Private TCP ports for backends on 127.0.0.1."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from proxy.errors import StartError

_FIRST, _LAST = 20000, 31999
_LOCAL = "127.0.0.1"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


class Ports:
    """Hands out ports that nothing uses, and none twice until it is released.

    They lie outside the range that outgoing connections take theirs from (ip_local_port_range), so that none is taken
    between the moment it is handed out and the moment the backend listens. They are handed out in turn, so that a
    released one rests: whoever still connects to it by mistake should find nobody, not the next backend.
    """

    def __init__(self, candidates: list[int] | None = None) -> None:
        self._candidates = _candidates() if candidates is None else candidates
        # Two proxies on one machine that begin at different places do not race for the same ports.
        self._next = random.randrange(len(self._candidates)) if candidates is None else 0  # noqa: S311
        self._used: set[int] = set()

    def take(self) -> int:
        """Raise StartError when every port is in use."""
        for _ in self._candidates:
            port = self._candidates[self._next]
            self._next = (self._next + 1) % len(self._candidates)
            if port not in self._used and is_free(port):
                self._used.add(port)
                return port
        raise StartError(
            f"all {len(self._candidates)} private ports ({self._candidates[0]}-{self._candidates[-1]}) are in use",
            hint="`ss -ltnp` shows by what",
        )

    def claim(self, port: int) -> None:
        """Count a port as in use that a backend of an earlier run already has."""
        self._used.add(port)

    @property
    def in_use(self) -> frozenset[int]:
        return frozenset(self._used)

    def release(self, port: int) -> None:
        self._used.discard(port)


def is_free(port: int) -> bool:
    """Whether no socket is bound to the port on 127.0.0.1 or on every address, and none of its connections linger.

    SO_REUSEADDR is left off on purpose: with it, a bind succeeds beside connections that are still closing.
    """
    attempts = [(socket.AF_INET, _LOCAL), (socket.AF_INET, "0.0.0.0")]  # noqa: S104  # nothing listens there
    attempts += [(socket.AF_INET6, "::")] if socket.has_ipv6 else []
    return all(_can_bind(family, host, port) for family, host in attempts)


def _can_bind(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((host, port))
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        if family == socket.AF_INET6:  # IPv6 is compiled in but switched off
            return True
        raise
    return True


def _candidates() -> list[int]:
    low, high = map(int, _EPHEMERAL.read_text().split())
    reserved = _reserved()
    found = [port for port in range(_FIRST, _LAST + 1) if not low <= port <= high and port not in reserved]
    # An administrator may have given outgoing connections the whole range; a rare clash is better than no port.
    return found or list(range(_FIRST, _LAST + 1))


def _reserved() -> set[int]:
    """The ports an administrator keeps for something else: "8080,9000-9010"."""
    found: set[int] = set()
    for part in _RESERVED.read_text().strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return found
