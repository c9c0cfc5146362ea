"""Runs real HTTP clients in loops, and reads what they say at their end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from tests.e2e.http_harness import need_module
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER = Path(__file__).parent
_BODY = "x" * 100


class Work(NamedTuple):
    """What a program is to do: so many clients, each so many requests, so many seconds apart on average."""

    url: str
    clients: int
    requests: int
    pause: float
    prefix: str
    """POSTs to `URL/ids/PREFIX…` if it is set, otherwise GETs of `URL/`."""

    @property
    def total(self) -> int:
        return self.clients * self.requests

    @property
    def seconds(self) -> float:
        return self.requests * self.pause


@dataclass
class Tally:
    """What a program has seen: requests made, errors by their text, and connections used (None: it does not say)."""

    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    connections: int | None = None


Plan: TypeAlias = "tuple[list[list[str]], Callable[[str], Tally]]"
"""The commands to run, and what reads their output."""


class Loop:
    """A real client at work; use as a context manager."""

    def __init__(self, client: str, work: Work, folder: Path) -> None:
        """`client` is one of CLIENTS; `folder` is for its files."""
        self.client = client
        self.work = work
        commands, self._read = CLIENTS[client](work, folder)
        self._outputs = [folder / f"{client}-{work.prefix}-{number}.out" for number in range(len(commands))]
        self._processes = []
        for command, output in zip(commands, self._outputs, strict=True):
            with output.open("wb") as file:
                self._processes.append(subprocess.Popen(command, stdout=file, stderr=file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    @property
    def is_running(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def hold(self) -> None:
        """Let it do nothing until `go_on`; its connections stay."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    def tally(self) -> Tally:
        """Wait for its end."""
        for process in self._processes:
            process.wait(2 * self.work.seconds + 60)
        texts = [output.read_text(errors="replace") for output in self._outputs]
        tally = self._read("".join(texts))
        for process, text in zip(self._processes, texts, strict=True):
            if process.returncode != 0 or tally.requests == 0:
                tally.errors[f"exit status {process.returncode}: {text[-300:]}"] = 1
        return tally


def _curl(work: Work, _: Path) -> Plan:
    """One process for each client. It would try a POST again whose kept connection is dead: its connections tell."""
    program = need("curl", package="curl")
    common = [program, "-sS", "--noproxy", "*", "-w", " %{http_code} %{num_connects}\\n"]
    if work.pause:
        common += ["--rate", f"{60 / work.pause:.0f}/m"]
    last = work.requests - 1
    if not work.prefix:
        return [[*common, f"{work.url}/?[0-{last}]"] for _ in range(work.clients)], _read_curl
    urls = [f"{work.url}/ids/{work.prefix}-{client}-[0-{last}]" for client in range(work.clients)]
    return [[*common, "-d", _BODY, url] for url in urls], _read_curl


def _read_curl(text: str) -> Tally:
    tally, connections = Tally(), 0
    for line in text.splitlines():
        found = re.search(r" (\d{3}) (\d+)$", line)
        tally.requests += 1
        connections += int(found[2]) if found else 0
        if not found or found[1] != "200":
            tally.errors[line] = tally.errors.get(line, 0) + 1
    tally.connections = connections
    return tally


def _wrk(work: Work, _: Path) -> Plan:
    program = need("wrk", package="wrk")
    command = [program, "-t1", f"-c{work.clients}", f"-d{max(1, round(work.seconds))}s", "--timeout=30s"]
    script = ["-s", str(_FOLDER / "pause.lua"), f"{work.url}/", "--", work.prefix, str(round(work.pause * 1000))]
    return [[*command, *script]], _read_wrk


def _read_wrk(text: str) -> Tally:
    tally = Tally()
    if found := re.search(r"(\d+) requests in", text):
        tally.requests = int(found[1])
    for line in re.findall(r"Socket errors: .*|Non-2xx .*", text):
        tally.errors[line] = 1
    return tally


def _hey(work: Work, _: Path) -> Plan:
    command = [need("hey", package="hey"), "-n", str(work.total), "-c", str(work.clients)]
    if work.pause:
        command += ["-q", f"{1 / work.pause:.1f}"]
    if work.prefix:
        command += ["-m", "POST", "-d", _BODY, f"{work.url}/ids/{work.prefix}"]
    else:
        command += [f"{work.url}/"]
    return [command], _read_hey


def _read_hey(text: str) -> Tally:
    answers, _, errors = text.partition("Error distribution:")
    tally = Tally()
    for status, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", answers):
        tally.requests += int(count)
        if status != "200":
            tally.errors[f"status {status}"] = int(count)
    for count, error in re.findall(r"\[(\d+)\]\s+(.+)", errors):
        tally.requests += int(count)
        tally.errors[error] = int(count)
    return tally


def _h2load(work: Work, folder: Path, *options: str) -> Plan:
    program = need("h2load", package="nghttp2-client")
    command = [program, *(options or ["--h1"]), "-n", str(work.total), "-c", str(work.clients)]
    if work.pause:
        command += [f"--rps={1 / work.pause:.1f}"]
    if work.prefix:
        (folder / "body").write_text(_BODY)
        command += ["-d", str(folder / "body"), f"{work.url}/ids/{work.prefix}"]
    else:
        command += [f"{work.url}/"]
    return [command], _read_h2load


def _h2c(work: Work, folder: Path) -> Plan:
    """h2load with HTTP/2 in clear text, with prior knowledge."""
    return _h2load(work, folder, "--no-tls-proto=h2c")


def _read_h2load(text: str) -> Tally:
    tally = Tally()
    if found := re.search(r"requests: (\d+) total.* (\d+) succeeded, (.*)", text):
        tally.requests = int(found[1])
        if found[1] != found[2]:
            tally.errors[found[0]] = 1
    if (found := re.search(r"status codes: (\d+) 2xx, .*", text)) and int(found[1]) != tally.requests:
        tally.errors[found[0]] = 1
    return tally


def _library(name: str) -> Callable[[Work, Path], Plan]:
    def plan(work: Work, _: Path) -> Plan:
        if name == "node":
            command = [need("node", package="nodejs"), str(_FOLDER / "loop_node.js")]
        else:
            need_module(name)
            command = [sys.executable, str(_FOLDER / f"loop_{name}.py")]
        numbers = [str(work.clients), str(work.requests), str(work.pause)]
        return [[*command, work.url, *numbers, work.prefix]], _read_library

    return plan


def _read_library(text: str) -> Tally:
    try:
        return Tally(**json.loads(text.splitlines()[-1]))
    except (ValueError, IndexError):
        return Tally(errors={text[-300:]: 1})


CLIENTS: dict[str, Callable[[Work, Path], Plan]] = {
    "curl": _curl,
    "wrk": _wrk,
    "hey": _hey,
    "h2load": _h2load,
    "h2c": _h2c,
    **{name: _library(name) for name in ("httpx", "aiohttp", "urllib3", "node")},
}
