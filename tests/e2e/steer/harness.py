"""Services that are steered, and what is expected of their swaps."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from itertools import accumulate
from typing import Any, Self

from tests.e2e import configs
from tests.e2e.crash_harness import Mortal
from tests.e2e.harness import PATIENCE, Answer, Events, Held, eventually
from tests.e2e.steer.kernel import is_steered, steerings
from tests.e2e.steer.servers import many
from tests.tools import need


def service(listen: int | str | list[str], *, keys: str = "", **others: str) -> str:
    """A service table with datapath = "steer"; without versions: v1, v2 and v3 of many.py. See configs.service."""
    if not set(others) - {"name", "active", "health", "drain"}:
        others |= {version: many() for version in ("v1", "v2", "v3")}
    return configs.service(listen, keys=f'datapath = "steer"\n{keys}', **others)


class Steered(Mortal):
    """A proxy whose services are steered. Its workers and backends outlive it; `kill` ends all of them."""

    without = ""
    """Capabilities that it shall not have: names without `cap_`, each with a `-` before it, separated by commas."""

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self.kill()
            raise

    def _words(self, *arguments: str) -> list[str]:
        prefix = [need("setpriv", package="util-linux"), f"--bounding-set={self.without}"] if self.without else []
        return [*prefix, sys.executable, "-P", "-m", "proxy.cli", *arguments]

    def doctor(self) -> str:
        words = self._words("doctor")
        return subprocess.run(words, capture_output=True, text=True, cwd=self.folder, check=False).stdout

    def start(self, *, wait: bool = True, point: str = "") -> None:
        if not self.without:
            super().start(wait=wait, point=point)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._words("run", str(self.config)),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every service is ready, and either steered or known not to be."""
        super().wait_ready()
        eventually(lambda: all(map(_is_decided, self.status()["services"].values())), what="connections are steered")

    def counts(self, name: str = "") -> tuple[int, int]:
        """Connections of the active generation that were steered to it, and that fell through."""
        active = self.active(name)
        return active["steered"], active["fallen_through"]

    def assert_steered(self, name: str = "") -> None:
        service = self.service(name)
        assert (service["datapath"], service["datapath_reason"]) == ("steer", ""), self.log_text()

    def wait_steered(self, port: int, name: str = "", *, host: str = "127.0.0.1") -> None:
        """Wait until a new connection is steered: after a crash of the backend, its new socket has to be found."""

        def is_steered() -> bool:
            before = self.counts(name)[0]
            with Held(port, host=host) as client:
                client.ask()
                return self.counts(name)[0] > before

        eventually(is_steered, what="connections are steered")

    def begin_swap(self, events: Events, version: str, **options: Any) -> int:
        """Swap until the new generation is the active one; returns the number of the operation."""
        number: int = self.begin("swap", version=version, **options)["id"]
        events.wait(operation=number, phase="switch", state="end")
        return number

    def stop(self, *options: str) -> None:
        """Stop for good, and wait until control has gone."""
        assert self.process
        self.ok("stop", *options)
        assert self.process.wait(PATIENCE) == 0, self.log_text()

    def kill(self) -> None:
        """What is killed pins its program on: of those that nobody can find again, nothing may be left here."""
        try:
            super().kill()
        finally:
            for port in _public_ports(self.config.read_text()):
                for steering in steerings(port):
                    steering.remove()


def _is_decided(service: dict[str, Any]) -> bool:
    if service["datapath"] != "steer":
        return True
    return all(is_steered(int(port)) for port in re.findall(r":(\d+)'", str(service["listen"])))


def _public_ports(config: str) -> set[int]:
    found = re.findall(r"^listen = (.+)$", config, re.MULTILINE)
    return {int(port) for line in found for port in re.findall(r":(\d+)\"", line)}


def assert_switched_in_one_step(answers: list[Answer], events: Events) -> None:
    """Nobody who came after a switch was reported got the generation before; nobody got one before its switch began.

    Generations are numbered from 1 and each swap made one. Once anybody has had an answer of a generation, no
    connection that is begun later gets an earlier one.
    """
    wall = time.time() - time.monotonic()
    switch = [(at, event) for at, event in events.seen if event.get("phase") == "switch"]
    begun = [event["time"] - wall for _, event in switch if event["state"] == "begin"]
    reported = [at for at, event in switch if event["state"] == "end"]
    for answer in answers:
        until = reported[answer.generation - 1] if answer.generation <= len(reported) else float("inf")
        assert answer.began <= until, f"{answer} came {answer.began - until:.6f} s after the switch away from it"
        since = begun[answer.generation - 2] if answer.generation > 1 else 0.0
        assert answer.ended >= since - 0.002, f"{answer} came {since - answer.ended:.6f} s before the switch to it"
    by_end = sorted(answers, key=lambda answer: answer.ended)
    newest = list(accumulate((answer.generation for answer in by_end), max))
    position = 0
    for answer in sorted(answers, key=lambda answer: answer.began):
        while position < len(by_end) and by_end[position].ended < answer.began:
            position += 1
        assert not position or answer.generation >= newest[position - 1], f"{answer} after {newest[position - 1]}"


def result(events: Events, number: int) -> dict[str, Any]:
    """The result of an operation, when it has come."""
    found: dict[str, Any] = events.wait(operation=number, type="result")["result"]
    return found
