"""Telling a service manager how this process is, as sd_notify(3) describes it: datagrams on a Unix socket."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

_SOCKET, _USEC, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"

log = logging.getLogger(__name__)


class Notifier:
    """The way to the service manager, if there is one: `bool(notifier)` says so. Sending never fails and never blocks.

    `watchdog` is for how many seconds the manager waits for WATCHDOG=1 before it ends this process, None where it does
    not watch (sd_watchdog_enabled(3)).
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """`variables` are those of sd_notify(3), as they came in the environment."""
        self._variables = dict(variables or {})
        self._address = _address(self._variables.get(_SOCKET, ""))
        self.watchdog = _watchdog(self._variables) if self._address else None
        self._said = False
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take the variables out of `environ`: a child that inherited them would speak for us."""
        names = [name for name in (_SOCKET, _USEC, _PID) if name in environ]
        return cls({name: environ.pop(name) for name in names})

    def environment(self) -> dict[str, str]:
        """The variables again, for an exec of this same process."""
        return dict(self._variables)

    def __bool__(self) -> bool:
        return self._socket is not None

    def send(self, **assignments: str | int) -> bool:
        """Send `READY=1` and the like, all in one message; returns whether the manager has it.

        One that is not there, or does not read, is no reason for us to do anything else: it is logged once, for
        debugging.
        """
        if self._socket is None:
            return False
        try:
            self._socket.sendto(_message(assignments), self._address)
        except OSError as error:
            if not self._said:
                log.debug("service manager cannot be told", extra=facts(reason=error.strerror or error))
            self._said = True
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _message(assignments: Mapping[str, str | int]) -> bytes:
    """A line for each; a line break inside a value would begin another."""
    lines = (f"{name}={' '.join(str(value).split())}" for name, value in assignments.items())
    return "\n".join(lines).encode(errors="replace")


def _address(text: str) -> str:
    """What `sendto` takes; "" where there is nobody we can speak to. "@name" is an abstract socket (unix(7))."""
    if text.startswith("@"):
        return "\0" + text[1:]
    if text and not text.startswith("/"):
        log.warning("service manager is told nothing: NOTIFY_SOCKET is no Unix socket", extra=facts(value=text))
        return ""
    return text


def _watchdog(variables: Mapping[str, str]) -> float | None:
    """Seconds, if it is us who is watched; the process id is left out where any process of the unit may speak."""
    usec, pid = variables.get(_USEC, ""), variables.get(_PID, "")
    if pid not in {"", str(os.getpid())} or not (usec.isascii() and usec.isdigit()):
        return None
    return int(usec) / 1e6 or None
