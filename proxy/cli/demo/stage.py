"""Where the demo plays: a temporary folder, a proxy that runs in it, and `proxyctl` commands against that proxy."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from proxy.cli.client import Client
from proxy.cli.where import Where
from proxy.errors import NotRunningError, ProxyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_PROXYCTL = (sys.executable, "-P", "-m", "proxy.cli")
_BACKEND = (sys.executable, "-P", "-m", "proxy.cli.demo.backend", "--port", "{port}", "--orders")
PROTOCOL = "http"
DEADLINE = "30s"  # of a drain
_START_LIMIT = 30.0
_STOP_LIMIT = 15.0  # seconds from the second signal on, when nothing waits for connections any more


class Stage:
    """`port` is the public one, `page` where the admin page is; backends note POSTs in `orders`. `keep`: leave it all
    as it is at the end.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="proxyctl-demo-"))
        self.socket = self.folder / "control.sock"
        self.orders = self.folder / "orders.txt"
        self.port = 0
        self.page = ""
        self.keep = False
        self._client = Client(Where(self.socket, "the demo"))
        self._process: trio.Process | None = None

    @property
    def backend_command(self) -> str:
        return shlex.join(self._backend).replace("'{port}'", "{port}")

    async def start(self) -> None:
        """Start the proxy, and wait until the first version serves. Raises ProxyError."""
        config = self.folder / "proxy.toml"
        config.write_text(self._config())
        with self._log.open("wb") as log:
            self._process = await trio.lowlevel.open_process(
                [*_PROXYCTL, "--socket", str(self.socket), "run", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        with trio.move_on_after(_START_LIMIT):
            while self._process.poll() is None:
                # Before it answers, the proxy has no event for others to wait on.
                with suppress(NotRunningError):
                    status = self._client.get("/v1/status")
                    service, admin = status["services"]["demo"], status["proxy"]["admin"]
                    if service["state"] == "serving" and admin:
                        self.port = int(service["listen"][0].rpartition(":")[2])
                        self.page = f"http://{admin['address']}/"
                        return
                await trio.sleep(0.02)
        last = self._log.read_text(errors="replace").splitlines()[-20:]
        raise ProxyError("the demo's proxy does not serve", hint="\n".join(last))

    async def proxyctl(self, *arguments: str, on_line: Callable[[str], None]) -> None:
        """Run a verb against the proxy; each line that it prints is handed on as it comes."""
        # In a session of its own: Ctrl-C is for the demo, which then ends the verb.
        run = partial(
            trio.run_process,
            [*_PROXYCTL, "--socket", str(self.socket), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
        )
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(run)
            if process.stdout:
                await _read_lines(process.stdout, on_line)

    async def swap(self, version: str, *, on_line: Callable[[str], None]) -> dict[str, Any]:
        """`proxyctl swap`, and its result. Raises ProxyError when there is none."""
        lines: list[str] = []

        def heard(line: str) -> None:
            lines.append(line)
            if not line.startswith("{"):
                on_line(line)

        await self.proxyctl("swap", version, "--json", on_line=heard)
        if not lines or not lines[-1].startswith("{"):
            raise ProxyError(f"the swap to {version} has no result", hint="\n".join(lines))
        result: dict[str, Any] = json.loads(lines[-1])
        return result

    async def metrics(self) -> str:
        """The proxy's page of metrics. Raises ProxyError."""
        return await trio.to_thread.run_sync(lambda: b"".join(self._client.pieces("/metrics")).decode())

    async def stop(self, *, on_line: Callable[[str], None]) -> None:
        """`proxyctl stop`, and wait until the proxy is gone."""
        await self.proxyctl("stop", on_line=on_line)
        if self._process:
            await self._process.wait()

    async def close(self) -> None:
        """End the proxy and all that it runs, at once, and remove the folder."""
        with trio.CancelScope(shield=True):
            if self._process:
                await self._end(self._process)
        shutil.rmtree(self.folder)

    async def _end(self, process: trio.Process) -> None:
        # The second signal says "now". Two of a kind could arrive as one (signal(7)).
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        with trio.move_on_after(_STOP_LIMIT):
            await process.wait()
        process.kill()
        await process.wait()

    def _config(self) -> str:
        version = f"command = {json.dumps(self._backend)}\n"
        return (
            f"state_dir = {json.dumps(str(self.folder / 'state'))}\n"
            '[admin]\nlisten = "127.0.0.1:0"\n'
            '[services.demo]\nlisten = "127.0.0.1:0"\nactive = "v1"\n'
            f"protocol = {json.dumps(PROTOCOL)}\n"
            '[services.demo.health]\ntype = "http"\n'
            f"[services.demo.drain]\ndeadline = {json.dumps(DEADLINE)}\n"
            f"[services.demo.versions.v1]\n{version}[services.demo.versions.v2]\n{version}"
        )

    @property
    def _backend(self) -> list[str]:
        return [*_BACKEND, str(self.orders)]

    @property
    def _log(self) -> Path:
        return self.folder / "proxy.log"


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A proxy that has just been started; nothing of it is left afterwards, unless `keep` was set and all went well."""
    scene = Stage()
    try:
        await scene.start()
        yield scene
    except BaseException:
        scene.keep = False
        raise
    finally:
        if not scene.keep:
            await scene.close()


async def _read_lines(stream: trio.abc.ReceiveStream, take: Callable[[str], None]) -> None:
    """Hand on each line as soon as it is whole."""
    rest = b""
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            take(line.decode(errors="replace"))
