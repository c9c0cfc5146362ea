from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.api.server import serve
from proxy.cli import perform
from proxy.config import Admin
from tests.fakes import FakeControl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class FakeProxy:
    """The real API in front of a fake control, in a thread: `proxyctl` blocks, as programs do."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.control = FakeControl()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve)
            self._ready.set()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        await serve(self.control, admin=Admin(socket=self.socket), shutdown=self._shutdown, task_status=task_status)

    def start(self) -> None:
        """Also once more after `end`, with the same control."""
        self._shutdown = trio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._thread.start()
        assert self._ready.wait(10)

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function where the control lives."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        if self._thread.is_alive():
            self.do(self._shutdown.set)
            self._thread.join(10)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProxy]:
    """A proxy that `proxyctl` finds by itself."""
    fake = FakeProxy(tmp_path / "control.sock")
    monkeypatch.setenv("PROXYCTL_SOCKET", str(fake.socket))
    monkeypatch.chdir(tmp_path)
    fake.start()
    yield fake
    fake.end()


@pytest.fixture
def proxyctl(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: str) -> Result:
        code = perform(arguments)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
