"""For tests of what is steered: real backends and clients, where nothing of the machine can be touched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from proxy import wire
from proxy.config.marks import Marks
from proxy.control.steering import KERNEL, Steering
from proxy.control.traffic import Traffic
from proxy.core.address import Address
from proxy.kernel import bpffs
from tests.isolation import NAMESPACE, bpf_file_system, need_bpf, network_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from proxy.control.backend import Backend
    from proxy.control.external import External
    from tests.control.world import World

PORT = 8080
PUBLIC = Address(host="127.0.0.1", port=PORT)
PATIENCE = 10.0  # seconds; nothing waits this long when all is well
_BACKEND = str(Path(__file__).with_name("listening.py"))
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network namespace and a BPF file system of the test's own, for its threads and what it starts too."""
    need_bpf()
    with contextlib.closing(_Threads()) as threads, network_namespace(), bpf_file_system() as root:
        threads.enter()
        monkeypatch.setattr(trio.to_thread, "run_sync", threads.run_sync)
        monkeypatch.setattr(bpffs, "pin_folder_root", root / "proxyctl")
        yield
        monkeypatch.undo()


class _Threads:
    """trio keeps threads from one test to the next: each call enters the test's namespace, and leaves it again for the
    one that there was before, also in a thread that was made meanwhile.
    """

    def __init__(self) -> None:
        self._run_sync = trio.to_thread.run_sync
        self._namespaces = [os.open(NAMESPACE, os.O_RDONLY)]

    def enter(self) -> None:
        self._namespaces.append(os.open(NAMESPACE, os.O_RDONLY))

    def run_sync(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._run_sync(self._here, function, *args, **options)

    def _here(self, function: Callable[..., Any], *args: Any) -> Any:
        before, ours = self._namespaces
        assert _libc.setns(ours, _CLONE_NEWNET) == 0
        try:
            return function(*args)
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0

    def close(self) -> None:
        for each in self._namespaces:
            os.close(each)


class Kernel:
    """What one control process after the other has of steering; all with the same state folder, unless they say."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.traffic = Traffic()

    def control(self, folder: str = "state", *, marks: str = "0x100-0x1ff") -> Steering:
        self.traffic = Traffic()
        self.traffic.join(KERNEL, KERNEL)
        made = Steering(self.folder / folder, Marks.parse(marks), self.traffic)
        self._stack.callback(made.remove)
        return made

    def die(self, control: Steering) -> None:
        """As by kill -9: what is pinned stays."""
        if control._table:
            control._table.close()
            control._table = None

    def counts(self, generation: int, service: str = "web") -> wire.GenerationCounts:
        return self.traffic.of(service).generations.get(generation, wire.GenerationCounts())


def generation(number: int, *targets: Backend | External | None) -> Any:
    """One whose replicas are in rotation, but for None."""
    replicas = [SimpleNamespace(healthy=target is not None, target=target) for target in targets]
    return SimpleNamespace(id=number, replicas=replicas, ended=trio.Event())


async def start(here: World, word: str, *rest: str, within: tuple[str, ...] = (), **settings: Any) -> Backend:
    """A backend that greets with the word; returns when it listens."""
    rest = rest if any("." in each or ":" in each for each in rest) else (*rest, "127.0.0.1")
    command = (*within, sys.executable, "-I", "-S", _BACKEND, word, "{port}", *rest)
    started = await here.start(command, **settings)
    await here.text_of(word)
    return started


async def steer(control: Steering, number: int, *targets: Backend, service: str = "web") -> Any:
    """Send new connections at PUBLIC to these."""
    assert control.take_up(service, [PUBLIC]) == ""
    made = generation(number, *targets)
    assert await control.arrange(service, made) == ""
    control.switch(service, number)
    return made


class Client:
    """A connection."""

    greeting = ""

    def __init__(self, address: Address = PUBLIC) -> None:
        self.sock = socket.create_connection((address.host, address.port), timeout=PATIENCE)

    def word(self) -> str:
        """Who greets it."""
        return self.sock.recv(100).decode()

    def is_open(self) -> bool:
        """Whether nobody has closed it, as far as it has heard."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    def close(self) -> None:
        self.sock.close()


class Crowd:
    """Clients, which leave in the end."""

    def __init__(self) -> None:
        self._clients: list[Client] = []

    def come(self, address: Address = PUBLIC) -> Client:
        """Connect; and wait for nothing."""
        self._clients.append(Client(address))
        return self._clients[-1]

    def greeted(self, address: Address = PUBLIC) -> Client:
        """Connect, and read the greeting."""
        client = self.come(address)
        client.greeting = client.word()
        return client

    def words(self, times: int = 1, address: Address = PUBLIC) -> set[str]:
        """Who serves new connections."""
        found = set()
        for _ in range(times):
            client = self.come(address)
            found.add(client.word())
            client.close()
        return found

    def close(self) -> None:
        for each in self._clients:
            each.close()


class Worker:
    """The ordinary listener underneath: whoever comes to it was not steered."""

    def __init__(self, address: Address = PUBLIC) -> None:
        self.sock = socket.create_server((address.host, address.port), family=address.family, backlog=512)
        self.sock.settimeout(PATIENCE)

    def gets(self, client: Client) -> bool:
        """Whether it got this one, which is the next to come to it."""
        connection, remote = self.sock.accept()
        connection.close()
        return bool(remote[1] == client.sock.getsockname()[1])

    def close(self) -> None:
        self.sock.close()
