"""How many descriptors this process may have open (RLIMIT_NOFILE, getrlimit(2))."""

from __future__ import annotations

import resource
from dataclasses import dataclass

_inherited: int | None = None  # the soft limit before it was raised


@dataclass(frozen=True, slots=True)
class Limit:
    """`soft` counts now, `hard` is how far an unprivileged process may raise it; "unlimited" reads as -1."""

    soft: int
    hard: int


def limit() -> Limit:
    return Limit(*resource.getrlimit(resource.RLIMIT_NOFILE))


def raise_to_hard() -> Limit:
    """Raise the soft limit to the hard one and return what holds now."""
    global _inherited  # noqa: PLW0603  # a limit of the process is as global as it gets
    before = limit()
    if _inherited is None:
        _inherited = before.soft
    if before.soft != before.hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before.hard, before.hard))
    return limit()


def restore_for(pid: int) -> None:
    """Give a child the soft limit that this process was started with: select(2) breaks above 1024 descriptors, and
    some programs walk through all that they may have (systemd.exec(5) on LimitNOFILE).
    """
    if _inherited is not None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        soft = _inherited if hard == resource.RLIM_INFINITY else min(_inherited, hard)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
