"""A proxy whose control process dies where it is told to, comes again, and is looked at from outside."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.e2e.crashing import ORDER, Order
from tests.e2e.harness import PATIENCE, Answer, Load, Proxy, eventually, fetch, is_alive, processes_of
from tests.e2e.http_harness import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import Metrics

_CRASHING = Path(__file__).with_name("crashing.py")


class Mortal(Proxy):
    """A proxy that runs under crashing.py. Workers and backends outlive it; `kill` ends all of them."""

    @property
    def order(self) -> Path:
        return self.folder / "order"

    def start(self, *, wait: bool = True, point: str = "") -> None:
        """Begin, or begin again; with `point`, to die there at once."""
        arguments = ["--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_CRASHING), *([point] if point else []), "--", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, ORDER: str(self.order)},
            )
        if wait:
            self.wait_ready()

    def crash(self, *, at_once: bool = False) -> None:
        """Kill control, once what has happened is on file, or whatever it is doing."""
        assert self.process
        if not at_once:
            eventually(self._is_on_file, what="the state is on file")
        self.process.send_signal(signal.SIGKILL)
        self.wait_crash()

    def _is_on_file(self) -> bool:
        file = json.loads((self.state_dir / "state.json").read_text())["services"]
        return all(
            {each["id"]: (each["state"], len(each["replicas"])) for each in shown["generations"]}
            == {
                each["id"]: (each["state"], len(each["backends"]) or len(each["recipe"].get("address", ())))
                for each in file[name]["generations"]
            }
            for name, shown in self.status()["services"].items()
        )

    def wait_crash(self) -> None:
        """Wait until control has died as it was told to."""
        assert self.process
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"control did not get to {self.order.read_text()}:\n{self.log_text()}") from None
        assert status == -signal.SIGKILL, self.log_text()
        self.order.unlink(missing_ok=True)

    def die_in(self, order: Order, verb: str, **body: Any) -> None:
        """Begin an operation, and wait until control has died in it."""
        order.write(self.order)
        # It may be dead before it could answer.
        with contextlib.suppress(OSError, IndexError, ValueError):
            self.begin(verb, order.service, **body)
        self.wait_crash()

    def wait_answer(self) -> None:
        """Wait until control answers, whether or not it is ready: a service that is paused may not be."""

        def answers() -> bool:
            try:
                return bool(self.status())
            except (OSError, IndexError, ValueError):
                return False

        eventually(answers, what="control is back")

    def wait_reload(self) -> None:
        """Wait until a config that was edited while control was away is applied, which may be after `ready`."""
        eventually(lambda: "config reloaded" in self.log_text(), what="the config is applied")

    def kill(self) -> None:
        super().kill()
        with self.marked() as find:
            while left := find():
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)

    @contextlib.contextmanager
    def marked(self) -> Iterator[Any]:
        """A function that lists all pids that this proxy, or an earlier one, started with this state folder."""
        with processes_of(f":{self.state_dir}") as find:
            yield find

    def known(self) -> set[int]:
        """The pids that `status` shows, control's own apart."""
        status = self.status()
        services = status["services"].values()
        generations = [generation for service in services for generation in service["generations"]]
        backends = {replica["pid"] for generation in generations for replica in generation["replicas"]}
        return {worker["pid"] for worker in status["proxy"]["workers"]} | backends - {None}

    def history(self, service: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.ask("GET", f"/v1/history?service={service}")[1]["history"]
        return entries

    def assert_nothing_is_lost(self) -> None:
        """Every process that bears the mark is on status, or gone soon; and whatever is on status runs."""
        with self.marked() as find:
            # Some programs, redis for one, overwrite what /proc shows of their environment.
            eventually(
                lambda: set(find()) <= (known := self.known()) and all(map(is_alive, known)),
                within=10,
                what=f"{find()} are among {self.known()}",
            )


@dataclass
class Calm(Load):
    """Short connections, one after another, and not too many: control is started again and again meanwhile."""

    rest: float = 0.02


class KeptLoad(Calm):
    """Clients with one HTTP connection each, that they never open again."""

    def _run(self) -> None:
        with Kept(self.port) as client:
            while not self._stop.wait(self.rest):
                began = time.monotonic()
                try:
                    answer = client.ask("GET")
                except (OSError, http.client.HTTPException) as error:
                    self._failed(began, error)
                    return
                if answer.status != 200:
                    self._failed(began, ValueError(f"{answer.status} {answer.text}"))
                self.answers.append(Answer(began, time.monotonic(), answer.text))


@contextlib.contextmanager
def alone(worker: int, workers: list[int]) -> Iterator[None]:
    """Stop all workers but one for a moment: what is accepted is accepted by that one."""
    others = [pid for pid in workers if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def serving(port: int, workers: list[int], count: int = 5) -> int:
    """The generation that answers new connections, `count` of them on each worker: one, and only one."""
    found: dict[int, set[int]] = {}
    for worker in workers:
        with alone(worker, workers):
            found[worker] = {int(fetch(port).split()[1]) for _ in range(count)}
    generations = set().union(*found.values())
    assert len(generations) == 1, f"generations by worker: {found}"
    return generations.pop()


def assert_one_step(answers: list[Answer], old: int, new: int) -> None:
    """Once anybody has had an answer of the new generation, nobody who comes later gets one of the old one."""
    assert {answer.generation for answer in answers} <= {old, new}
    first = min((answer.ended for answer in answers if answer.generation == new), default=float("inf"))
    late = [answer for answer in answers if answer.generation == old and answer.began > first]
    assert not late or old == new, late


def assert_never_less(before: Metrics, after: Metrics) -> None:
    """No counter goes backwards, and none vanishes."""
    endings = ("_total", "_count", "_sum", "_bucket")
    for (name, labels), value in before.values.items():
        if name.startswith("proxy_") and name.endswith(endings):
            assert after.values.get((name, labels), -1.0) >= value, (name, labels)


class Download:
    """A file of `size` bytes that is read at leisure: half of it until `go_on`."""

    def __init__(self, port: int, size: int) -> None:
        self._size = size
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.settimeout(PATIENCE)
        self._may_go_on = threading.Event()
        self._content = bytearray()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._socket.sendall(b"GET /bulk HTTP/1.0\r\n\r\n")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while data := self._socket.recv(1 << 16):
            self._content += data
            if len(self._content) > self._size // 2:
                self._may_go_on.wait()

    def wait_for(self, size: int) -> None:
        eventually(lambda: len(self._content) >= size, what=f"{size} bytes")

    def go_on(self) -> None:
        self._may_go_on.set()

    def digest(self) -> str:
        self._thread.join()
        return hashlib.sha256(self._content.partition(b"\r\n\r\n")[2]).hexdigest()
