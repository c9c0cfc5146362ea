"""What is not the proxy's: other services of the machine, and other network namespaces."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

from tests.e2e.harness import Held
from tests.e2e.steer.servers import PROGRAMS
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def bystander(port: int, *options: str, host: str = "127.0.0.1") -> Iterator[subprocess.Popen[bytes]]:
    """many.py, run by somebody else, and listening."""
    words = [sys.executable, "-I", "-S", str(PROGRAMS / "many.py"), "--port", str(port), "--host", host, *options]
    process = subprocess.Popen(words)
    try:
        Held(port, host=host, patient=True).close()
        yield process
    finally:
        process.kill()
        process.wait()


class Namespace:
    """A network namespace with an address of its own, and a way there from here; use as a context manager."""

    def __init__(self) -> None:
        self.ip = need("ip", package="iproute2")
        self.name = f"steer-{os.getpid()}"
        # Of the addresses that are for benchmarks of network devices (RFC 2544), a /30 that no other test run has.
        net = f"198.18.{os.getpid() >> 6 & 255}.{(os.getpid() & 63) << 2}"
        first, _, last = net.rpartition(".")
        self.here, self.there = f"{first}.{int(last) + 1}", f"{first}.{int(last) + 2}"

    def __enter__(self) -> Self:
        device = f"st{os.getpid()}"
        try:
            self._ip("netns", "add", self.name)
        except subprocess.CalledProcessError as error:
            missing(f"a network namespace cannot be made: {error.stderr.decode().strip()}")
        try:
            self._ip("link", "add", device, "type", "veth", "peer", "name", "up0", "netns", self.name)
            self._ip("address", "add", f"{self.here}/30", "dev", device)
            self._ip("link", "set", device, "up")
            self._ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", "up0")
            self._ip("-n", self.name, "link", "set", "up0", "up")
            self._ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ip("netns", "delete", self.name)  # its devices go too, and with one end of a pair the other

    def _ip(self, *words: str) -> None:
        subprocess.run([self.ip, *words], check=True, capture_output=True)

    def command(self, version: str) -> str:
        """A version as it is, in the namespace."""
        prefix = f'"{self.ip}", "netns", "exec", "{self.name}", '
        return version.replace("command = [", f"command = [{prefix}")


class Forwarder:
    """Stands in for a container runtime: what comes to a port of ours goes on to the same port of another address.

    A context manager. Ports are those that backends ask for, each by a file of that name in `folder`.
    """

    def __init__(self, folder: Path, to: str) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._to = to
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        for program in self._programs:
            program.kill()
            program.wait()

    def _watch(self) -> None:
        socat = need("socat", package="socat")
        seen: set[str] = set()
        while not self._is_over.wait(0.02):
            for port in {path.name for path in self._folder.iterdir()} - seen:
                seen.add(port)
                listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=64"
                # What is connected there and refused here is not a backend that listens.
                self._programs.append(subprocess.Popen([socat, listen, f"TCP:{self._to}:{port},retry=50,interval=0.1"]))

    def command(self, version: str) -> str:
        """A version that asks for its port first."""
        words = f'"sh", "-c", "touch {self._folder}/$PORT && exec \\"$@\\"", "-", '
        return version.replace("command = [", f"command = [{words}")
