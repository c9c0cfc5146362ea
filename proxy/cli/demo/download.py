"""One download that takes seconds, and is to arrive whole whatever is swapped meanwhile."""

from __future__ import annotations

import hashlib

import trio

from proxy.cli.demo.connection import Connection, FailedError


class Download:
    """`version` is the one that sent it; `failure` says what went wrong. Times are trio's."""

    def __init__(self, port: int) -> None:
        self.version = ""
        self.failure = "not begun"
        self.size = 0
        self.began = self.ended = 0.0
        self.under_way = trio.Event()
        self._port = port

    async def run(self, seconds: float) -> None:
        """Ask for one that lasts so long; `under_way` is set once bytes come, or it has failed."""
        digest = hashlib.sha256()

        def take(piece: bytes) -> None:
            self.under_way.set()
            self.size += len(piece)
            digest.update(piece)

        connection = Connection(self._port)
        self.began = trio.current_time()
        try:
            target = f"/download?seconds={seconds:.1f}"
            answer = await connection.ask("GET", target, patience=seconds + 30, on_piece=take)
        except FailedError as error:
            self.failure = str(error)
        else:
            self.version = answer.version
            self.failure = "" if answer.headers["x-sha256"] == digest.hexdigest() else "its bytes were changed"
        finally:
            connection.close()
            self.ended = trio.current_time()
            self.under_way.set()
