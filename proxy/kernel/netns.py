"""Network namespaces (network_namespaces(7)): two processes in different ones share no sockets, ports or addresses."""

from __future__ import annotations

import os


def of(pid: int | None = None) -> int | None:
    """The namespace a process (without `pid`: this thread) is in, as a number that tells namespaces apart.

    None when the process is gone, or may not be looked into (ptrace(2), PTRACE_MODE_READ_FSCREDS: another user's, or
    not dumpable, without CAP_SYS_PTRACE). A number is used again once nothing is left in its namespace.
    """
    try:
        return os.stat(f"/proc/{'thread-self' if pid is None else pid}/ns/net").st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
