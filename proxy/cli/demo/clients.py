"""The demo's clients: one short connection after another, and every answer looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf

import trio

_PATIENCE = 10.0  # seconds for a short request
_PAUSE = 0.01  # seconds between a client's requests: a demo need not heat the room


class FailedError(Exception):
    """A request that was refused, reset, cut off, too late, or answered with an error."""


@dataclass(frozen=True)
class Answer:
    """`began` is in trio's time; `seconds` from then to the last byte."""

    version: str
    began: float
    seconds: float


@dataclass
class Load:
    """Runs `clients` clients until `stop`; a request that is under way then is finished first."""

    port: int
    clients: int = 8
    answers: list[Answer] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    _stopped: bool = False

    @property
    def sent(self) -> int:
        return len(self.answers) + self.failed

    @property
    def failed(self) -> int:
        return self.failures.total()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self.clients):
                nursery.start_soon(self._client)

    def stop(self) -> None:
        self._stopped = True

    def versions(self, *, since: float = 0.0, until: float = inf) -> Counter[str]:
        """Which version gave how many of the answers to requests that began in this span."""
        return Counter(answer.version for answer in self.answers if since <= answer.began < until)

    async def _client(self) -> None:
        while not self._stopped:
            try:
                self.answers.append(await fetch(self.port))
            except FailedError as error:
                self.failures[str(error)] += 1
            await trio.sleep(_PAUSE)


async def fetch(port: int, path: str = "/", *, patience: float = _PATIENCE) -> Answer:
    """One request on a connection of its own. Raises FailedError."""
    began = trio.current_time()
    try:
        with trio.fail_after(patience), trio.socket.socket() as connection:
            await connection.connect(("127.0.0.1", port))
            stream = trio.SocketStream(connection)
            await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            content = b"".join([piece async for piece in stream])
    except trio.TooSlowError:
        raise FailedError(f"no answer within {patience:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise FailedError(str(error.__cause__ or error)) from error
    return Answer(_version(content), began, trio.current_time() - began)


def _version(content: bytes) -> str:
    """The version that a whole, good answer names."""
    head, end_of_head, body = content.partition(b"\r\n\r\n")
    if not end_of_head:
        raise FailedError(f"cut off after {len(content)} bytes")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    if " 200 " not in status:
        raise FailedError(f"answered with {status!r}")
    if len(body) != int(headers["Content-Length"]):
        raise FailedError(f"cut off after {len(content)} bytes")
    return headers["X-Version"]
