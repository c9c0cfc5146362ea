"""A control without workers or backends: it answers what a test tells it to, and tells events like the real one."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from proxy.errors import SwapInProgressError, UnknownServiceError, UnknownVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.core.caller import Caller
    from proxy.core.requests import SwapRequest

Json = dict[str, Any]

STATUS: Json = {
    "proxy": {"version": "0.1.0", "pid": 1, "uptime": 12.5, "workers": [{"pid": 2, "connections": 10}]},
    "services": {
        "web": {
            "listen": ["0.0.0.0:8080"],
            "protocol": "tcp",
            "datapath": "relay",
            "state": "serving",
            "active": "v1",
            "generations": [
                {
                    "id": 1,
                    "version": "v1",
                    "state": "active",
                    "connections": 10,
                    "since": 1789000000.0,
                    "replicas": [{"pid": 3, "address": "127.0.0.1:20001", "healthy": True, "restarts": 0}],
                    "drain": None,
                }
            ],
            "last_swap": None,
        }
    },
}


def result_of(kind: str = "swap", **values: Any) -> Json:
    return {
        "service": "web",
        "from": "v1",
        "to": "v2",
        "result": "swapped",
        "phases": {"start": 0.01, "health": 0.2, "switch": 0.001, "drain": 1.5, "stop": 0.05},
        "drained": 3,
        "forced": 0,
        "error": None,
        "hint": "",
        "output": [],
        "id": 1,
        "kind": kind,
        "generation": 2,
        "started": 1789000000.0,
        "finished": 1789000002.0,
        **values,
    }


def upgrade_result(**values: Any) -> Json:
    worker = {"worker": 0, "old": 20, "new": 30, "carried": 120, "kept": 0, "pause": 0.012}
    return {
        "id": 1,
        "kind": "upgrade",
        "result": "upgraded",
        "from": "0.1.0",
        "to": "0.2.0",
        "phases": {"check": 0.9, "exec": 0.5, "adopt": 0.05, "workers": 0.4},
        "carried": 240,
        "kept": 3,
        "pause": 0.015,
        "workers": [worker, {**worker, "worker": 1, "old": 21, "new": 31, "kept": 3, "pause": 0.015}],
        "error": None,
        "hint": "",
        "output": [],
        "started": 1789000000.0,
        "finished": 1789000002.0,
        **values,
    }


class FakeOperation:
    def __init__(self, number: int, kind: str, service: str, target: str) -> None:
        self.id, self.kind, self.service, self.target = number, kind, service, target
        self.started = round(time.time(), 3)
        self.result: Json | None = None
        self._over = trio.Event()

    def describe(self) -> Json:
        return {
            "id": self.id,
            "service": self.service,
            "kind": self.kind,
            "from": "v1",
            "to": self.target,
            "generation": 2,
            "phase": "start",
            "started": self.started,
        }

    def end(self, **values: Any) -> Json:
        self.result = result_of(self.kind, **{"id": self.id, "to": self.target, "started": self.started} | values)
        self._over.set()
        return self.result

    async def wait(self) -> Json:
        await self._over.wait()
        assert self.result
        return self.result


class FakeControl:
    """`story` is what happens in an operation: events, then how it ends (None: it goes on until `end`)."""

    def __init__(self) -> None:
        self.state: Json = json.loads(json.dumps(STATUS))
        self.story: list[Json] = []
        self.ending: Json | None = {}
        self.calls: list[tuple[Any, ...]] = []
        self.callers: list[Caller] = []
        self.done: list[Json] = []
        self.operation: FakeOperation | None = None
        self.upgrading: Json | None = None
        self.entries: list[Json] = []
        self.files: list[Path] = []
        self.folder = Path("/nonexistent")
        self.problem: Exception | None = None
        self.reasons: list[str] = []
        self.stopped = trio.Event()
        self.backlog = 1000
        self.reader_left = trio.Event()
        self.readers: set[trio.MemorySendChannel[Json]] = set()

    def publish(self, kind: str, **values: Any) -> None:
        event = {"type": kind, "time": 1789000000.0, **values}
        for reader in tuple(self.readers):
            try:
                reader.send_nowait(event)
            except trio.WouldBlock:
                self.readers.discard(reader)
                reader.close()

    def drop_readers(self) -> None:
        while self.readers:
            self.readers.pop().close()

    def end_upgrade(self, **values: Any) -> None:
        assert self.upgrading
        result = upgrade_result(**self.upgrading | values)
        self.state["proxy"] |= {"upgrade": None, "last_upgrade": result}
        self.publish("upgrade", id=result["id"], result=result)

    def end(self, **values: Any) -> None:
        assert self.operation
        result = self.operation.end(**values)
        self.entries.append(result)
        self.publish("result", operation=self.operation.id, service=self.operation.service, result=result)

    async def status(self) -> Json:
        self._fail()
        return self.state

    async def service_status(self, service: str) -> Json:
        self._fail()
        if service not in self.state["services"]:
            raise UnknownServiceError(f"there is no service {service}", hint="there is web")
        found: Json = self.state["services"][service]
        return found

    async def swap(self, service: str, request: SwapRequest, by: Caller) -> FakeOperation:
        self.callers.append(by)
        self.calls.append(("swap", service, request))
        if request.version == "missing":
            raise UnknownVersionError("there is no version missing", hint="there is v1")
        if request.version == "busy":
            raise SwapInProgressError("a swap to v3 is under way", hint="wait for it")
        return self._begin("swap", service, request.version)

    async def rollback(self, service: str, by: Caller, *, deadline: float | None = None) -> FakeOperation:
        self.callers.append(by)
        self.calls.append(("rollback", service, deadline))
        return self._begin("rollback", service, "v0")

    async def restart(self, service: str, by: Caller, *, deadline: float | None = None) -> FakeOperation:
        self.callers.append(by)
        self.calls.append(("restart", service, deadline))
        return self._begin("restart", service, "v1")

    async def pause(self, service: str, by: Caller) -> None:
        self.callers.append(by)
        (await self.service_status(service))["state"] = "paused"

    async def resume(self, service: str, by: Caller) -> None:
        self.callers.append(by)
        (await self.service_status(service))["state"] = "serving"

    async def reload(self, by: Caller) -> Json:
        self.callers.append(by)
        self._fail()
        return {"changes": ["web: version v2 was added"], "warnings": ["workers changes at the next start"]}

    async def upgrade(self, by: Caller) -> Json:
        self.callers.append(by)
        self.calls.append(("upgrade",))
        self._fail()
        self.upgrading = {"id": 1, "from": "0.1.0", "started": round(time.time(), 3)}
        self.state["proxy"] |= {"upgrade": {**self.upgrading, "phase": "check"}, "last_upgrade": None}
        for event in self.story:
            self.publish("upgrade", id=1, **event)
        if self.ending is not None:
            self.end_upgrade(**self.ending)
        return self.upgrading

    def stop(self, by: Caller, *, now: bool = False) -> None:
        self.callers.append(by)
        self.calls.append(("stop", now))
        self.publish("stop")
        self.stopped.set()

    def history(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        chosen = [entry for entry in self.entries if service in {None, entry["service"]}]
        return chosen[-limit:] if limit else []

    def actions(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        return self.done[-limit:] if limit else []

    def output_files(self, service: str, version: str) -> Sequence[Path]:
        return self.files or sorted(self.folder.glob("*.log*"))

    def output_directory(self, service: str, version: str) -> Path:
        if service not in self.state["services"]:
            raise UnknownServiceError(f"there is no service {service}", hint="there is web")
        return self.folder

    @contextlib.contextmanager
    def events(self) -> Iterator[trio.MemoryReceiveChannel[Json]]:
        send, receive = trio.open_memory_channel[Json](self.backlog)
        self.readers.add(send)
        with receive:
            yield receive
        self.readers.discard(send)
        send.close()
        self.reader_left.set()

    async def metrics(self, *, openmetrics: bool) -> tuple[bytes, str]:
        kind = "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain; version=0.0.4"
        return b"proxy_build_info 1\n", f"{kind}; charset=utf-8"

    def not_ready(self) -> Sequence[str]:
        return self.reasons

    def _begin(self, kind: str, service: str, target: str) -> FakeOperation:
        self._fail()
        self.operation = FakeOperation(len(self.entries) + 1, kind, service, target)
        for event in self.story:
            values = {name: value for name, value in event.items() if name != "type"}
            self.publish(event["type"], operation=self.operation.id, service=service, **values)
        if self.ending is not None:
            self.end(**self.ending)
        return self.operation

    def _fail(self) -> None:
        if self.problem:
            raise self.problem
