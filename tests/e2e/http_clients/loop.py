"""What the Python clients of the tests share: options, and the tally that each prints at its end.

A client program is called `PROGRAM URL CLIENTS REQUESTS PAUSE PREFIX`. It makes CLIENTS clients of one kept connection
each, and each makes REQUESTS requests one after another, PAUSE seconds apart on average. With a PREFIX these are POSTs
to `URL/ids/PREFIX-CLIENT-REQUEST`, and the answer has to end with that id; with an empty one, GETs of URL. Nothing is
tried twice.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"x" * 100

url = sys.argv[1].rstrip("/")
clients, requests = map(int, sys.argv[2:4])
pause = float(sys.argv[4])
prefix = sys.argv[5]


class Tally:
    """What all clients of a program have seen."""

    def __init__(self) -> None:
        self.requests = 0
        self.connections = 0
        self.errors: Counter[str] = Counter()

    def check(self, identity: str, status: int, body: bytes) -> None:
        self.requests += 1
        if status != 200 or not body.endswith(identity.encode()):
            self.errors[f"{identity}: {status} {body[:100]!r}"] += 1

    def failed(self, error: Exception) -> None:
        self.requests += 1
        self.errors[f"{type(error).__name__}: {error}"] += 1

    def print(self) -> None:
        print(json.dumps({"requests": self.requests, "errors": self.errors, "connections": self.connections}))


tally = Tally()


def work(client: int) -> Iterator[tuple[str, str, str, float]]:
    """The method, URL and id of each request of a client, and for how long to wait before it."""
    for number in range(requests):
        identity = f"{prefix}-{client}-{number}" if prefix else ""
        wait = random.uniform(0, 2 * pause)
        yield ("POST", f"{url}/ids/{identity}", identity, wait) if prefix else ("GET", url + "/", "", wait)
