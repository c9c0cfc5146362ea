"""A real worker process, and a test that plays control, clients and backends around it.

Tests hold both ends of what they look at, as blocking sockets with a timeout. They wait for bytes, events and messages.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from proxy import __version__, wire
from proxy.core.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
S = TypeVar("S", bound="socket.socket | Listener")

PATIENCE = 20.0  # seconds; nothing waits this long when all is well
QUIET = 0.3  # seconds in which what must not happen would have happened
RESET = struct.pack("ii", 1, 0)
_TICKS = os.sysconf("SC_CLK_TCK")


class Control:
    """Control's end of the link."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(str(path))
        self._numbers = itertools.count(1)
        self.unasked: list[wire.Remaining] = []
        self._late: dict[int, wire.Ack | None] = {}  # requests whose answer is waited for later

    def hello(self) -> wire.Hello:
        message = self.receive()
        assert isinstance(message, wire.Hello)
        return message

    def receive(self) -> wire.Message:
        payload = self._sock.recv(wire.MAX_MESSAGE)
        if not payload:
            raise EOFError("the worker closed the link")
        return wire.decode(payload)

    def send(self, kind: Callable[..., wire.Request], *fields: Any, fds: tuple[int, ...] = (), **named: Any) -> int:
        """Send a request; return its number."""
        request = kind(next(self._numbers), *fields, **named)
        self.send_raw(wire.encode(request), fds)
        return request.seq

    def send_raw(self, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        socket.send_fds(self._sock, [payload], fds)

    def answers(self, number: int) -> list[wire.Message]:
        """Return what came in answer to a request, the Ack last; what came unasked is kept."""
        found: list[wire.Message] = []
        while True:
            message = self.receive()
            if isinstance(message, wire.Remaining):
                self.unasked.append(message)
                continue
            if isinstance(message, wire.Ack) and message.seq != number and message.seq in self._late:
                self._late[message.seq] = message
                continue
            found.append(message)
            if isinstance(message, wire.Ack):
                assert message.seq == number
                return found

    def ask(self, kind: Callable[..., wire.Request], *fields: Any, fds: tuple[int, ...] = (), **named: Any) -> wire.Ack:
        """Send a request and return its Ack, which must not be an error."""
        ack = self.answers(self.send(kind, *fields, fds=fds, **named))[-1]
        assert isinstance(ack, wire.Ack)
        assert ack.error == ""
        return ack

    def begin(self, kind: Callable[..., wire.Request], fd: int) -> int:
        """Send a request that takes its time; other requests are answered meanwhile. Return its number."""
        number = self.send(kind, fds=(fd,))
        self._late[number] = None
        return number

    def is_through(self, number: int) -> bool:
        """Whether a request that takes its time was answered by now."""
        self.answers(self.send(wire.Snapshot))
        return self._late[number] is not None

    def through(self, number: int) -> wire.Ack:
        """Wait for the answer to a request that takes its time."""
        ack = self._late.pop(number)
        if ack is None:
            last = self.answers(number)[-1]
            assert isinstance(last, wire.Ack)
            return last
        return ack

    def refused(self, kind: Callable[..., wire.Request], *fields: Any, **named: Any) -> str:
        """Send a request that cannot be served; return the error."""
        ack = self.answers(self.send(kind, *fields, **named))[-1]
        assert isinstance(ack, wire.Ack)
        assert ack.error
        return ack.error

    def listen(self, service: str, listener: Listener) -> None:
        self.ask(wire.Listen, service, add=(listener.address,), fds=(listener.sock.fileno(),))

    def route(
        self, service: str, generation: int, *addresses: str, held: bool = False, **policy: Any
    ) -> dict[int, int]:
        """Send a route; `held` is a switch that is under way and not decided."""
        endpoints = tuple(wire.Endpoint(replica, address) for replica, address in enumerate(addresses))
        connections = self.ask(wire.Route, service, generation, endpoints, **policy).connections
        if held:
            with decision(decided=False) as file:
                self.hold(service, wire.Route(0, service, generation + 1), file)
        return connections

    def hold(self, service: str, then: wire.Route, decision: int) -> None:
        self.ask(wire.Hold, service, then, fds=(decision,))

    def describe(self) -> tuple[list[wire.Serving], dict[str, int]]:
        """What the worker serves, and the descriptors of its listeners, which are the caller's to close."""
        number = self.send(wire.Describe)
        servings: list[wire.Serving] = []
        descriptors: list[int] = []
        while True:
            payload, fds, flags, _ = socket.recv_fds(self._sock, wire.MAX_MESSAGE, wire.MAX_FDS)
            assert not flags & socket.MSG_CTRUNC
            message = wire.decode(payload)
            descriptors += fds
            if isinstance(message, wire.Serving):
                assert len(fds) == len(message.listeners)
                servings.append(message)
            elif isinstance(message, wire.Ack):
                assert (message.seq, message.error) == (number, "")
                addresses = [address for serving in servings for address in serving.listeners]
                return servings, dict(zip(addresses, descriptors, strict=True))

    def remaining(self) -> wire.Remaining:
        """Return the next thing that the worker says unasked."""
        if self.unasked:
            return self.unasked.pop(0)
        message = self.receive()
        assert isinstance(message, wire.Remaining)
        return message

    def counts(self, service: str) -> wire.Counts:
        for message in self.answers(self.send(wire.Snapshot)):
            if isinstance(message, wire.Counts) and message.service == service:
                return message
        raise KeyError(service)

    def counts_all(self) -> list[wire.Message]:
        """The counts of every service, and the Ack."""
        return self.answers(self.send(wire.Snapshot))

    def counts_when(self, service: str, condition: Callable[[wire.Counts], bool]) -> wire.Counts:
        """Return the counts once the condition holds: what the worker does on its own has no other event."""
        return eventually(lambda: found if condition(found := self.counts(service)) else None)

    def close(self) -> None:
        self._sock.close()


def eventually(look: Callable[[], T | None]) -> T:
    """Return what `look` finds, once it does: for another process's doing, seen from outside."""
    deadline = time.monotonic() + PATIENCE
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {look}"
        time.sleep(0.01)
    return found


@contextlib.contextmanager
def decision(*, decided: bool) -> Iterator[int]:
    """The file that says whether a switch is to be made, for those who come to know it only afterwards."""
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), b"1" if decided else b"0", 0)
        yield file.fileno()


class Listener:
    """A public listener as control would pass it."""

    def __init__(self, address: str, *, backlog: int = 4096) -> None:
        wanted = Address.parse(address)
        self.sock = socket.socket(wanted.family)
        self.sock.bind(wanted.sockaddr)
        if not wanted.is_unix:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wanted = Address(wanted.host, self.sock.getsockname()[1])
        self.sock.listen(backlog)
        self.sock.settimeout(PATIENCE)
        self.address = str(wanted)

    def accept(self) -> socket.socket:
        sock, _ = self.sock.accept()
        sock.settimeout(PATIENCE)
        return sock

    def close(self) -> None:
        self.sock.close()


def connect(address: str, *, receive_buffer: int = 0) -> socket.socket:
    """Connect as a client would, where the backlog allows."""
    wanted = Address.parse(address)
    sock = socket.socket(wanted.family)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(wanted.sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


# What a peer does


def read(sock: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes."""
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(min(1 << 20, size - len(data)))
        assert chunk, f"the stream ended after {len(data)} of {size} bytes"
        data += chunk
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    """Read until FIN; a reset raises ConnectionResetError."""
    data = bytearray()
    while chunk := sock.recv(1 << 20):
        data += chunk
    return bytes(data)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def is_quiet(sock: socket.socket, *, events: int = select.POLLIN) -> bool:
    """Whether nothing of that kind happens for a while."""
    poll = select.poll()
    poll.register(sock, events)
    return not poll.poll(QUIET * 1000)


def was_reset(sock: socket.socket) -> bool:
    """Wait for the end of the stream; return whether that was RST rather than FIN."""
    try:
        read_to_end(sock)
    except ConnectionResetError:
        return True
    return False


def fill(sock: socket.socket, *, limit: int = 256 << 20) -> int:
    """Send zeros until the peer's slowness is felt: until there has been no room for a while. Return how many."""
    chunk, total = bytes(1 << 16), 0
    sock.setblocking(False)
    while total < limit:
        try:
            total += sock.send(chunk)
        except BlockingIOError:
            if is_quiet(sock, events=select.POLLOUT):
                break
    sock.settimeout(PATIENCE)
    return total


class WorkerProcess:
    """`python -P -m proxy.relay`, with the test as its control. Nothing is left of it when the context ends."""

    module = "proxy.relay"

    def __init__(self, folder: Path, *, descriptors: int | None = None) -> None:
        self.path = folder / "worker.sock"
        self.log = folder / "worker.log"
        self._descriptors = descriptors
        self._was_killed = False

    def __enter__(self) -> Self:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door, self.log.open("wb") as log:
            door.bind(str(self.path))
            door.listen(8)
            limit = self._descriptors
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module, "--fd", str(door.fileno()), "--log-format", "text"],
                pass_fds=[door.fileno()],
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                start_new_session=True,
                preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit // 2, limit))),  # noqa: PLW1509
            )
        self.control = Control(self.path)
        assert self.control.hello() == wire.Hello(wire.VERSION, self.pid, __version__)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.control.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        if kind is None:
            assert status == (-signal.SIGKILL if self._was_killed else 0), (status, self.logged())
            assert self.errors() == []

    @property
    def pid(self) -> int:
        return self.process.pid

    def logged(self) -> str:
        return self.log.read_text()

    def errors(self) -> list[str]:
        """The lines that a worker in order never logs."""
        return re.findall(r"^\S+ error .*", self.logged(), re.MULTILINE)

    def kill(self) -> None:
        self._was_killed = True
        self.process.kill()
        self.process.wait()

    def reconnect(self) -> Control:
        """Leave, and come back as the next control."""
        self.control.close()
        self.control = Control(self.path)
        self.control.hello()
        return self.control

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def cpu_share(self, seconds: float = 1.0) -> float:
        """What part of a CPU it uses in so many seconds from now."""
        before, start = self.cpu(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu() - before) / (time.monotonic() - start)

    def rss(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def limit_descriptors(self, limit: int) -> None:
        """Change the limit of the running process (prlimit(2))."""
        _soft, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (limit, hard))

    def freeze(self) -> None:
        """Stop the process, so that what happens meanwhile comes to it in one batch."""
        self.process.send_signal(signal.SIGSTOP)
        eventually(lambda: True if self._state() == "T" else None)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]


class Service:
    """A service called "web" in a worker: a public listener, and one backend that the test accepts from."""

    def __init__(self, worker: WorkerProcess, folder: Path) -> None:
        self.worker = worker
        self.control = worker.control
        self.folder = folder
        self._open: list[socket.socket | Listener] = []
        self.public = self.listener()
        self.backend = self.listener()
        self.control.listen("web", self.public)

    def listener(self, kind: str = "ipv4", *, backlog: int = 4096) -> Listener:
        """A new listening socket of a kind: ipv4, ipv6 or unix."""
        path = self.folder / f"{len(self._open)}.sock"
        address = {"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0", "unix": f"unix:{path}"}[kind]
        return self.keep(Listener(address, backlog=backlog))

    def full_listener(self) -> tuple[Listener, socket.socket]:
        """A listener that does not answer, and the client in its queue: the kernel drops who else knocks.

        Once that client is accepted, the next one's second knock is heard (after a second).
        """
        listener = self.listener(backlog=0)
        return listener, self.keep(connect(listener.address))

    def route(self, generation: int = 1, *backends: Listener, **policy: Any) -> dict[int, int]:
        """Send new connections to these backends, by default to the first one."""
        addresses = [backend.address for backend in backends or [self.backend]]
        return self.control.route("web", generation, *addresses, **policy)

    def hold(self) -> None:
        """Let new connections wait for the next route. A control that leaves before that has not decided."""
        with decision(decided=False) as file:
            self.control.hold("web", wire.Route(0, "web", 1_000_000), file)

    def client(self, **options: Any) -> socket.socket:
        """A client's connection to the public listener."""
        return self.keep(connect(self.public.address, **options))

    def pair(self, **options: Any) -> tuple[socket.socket, socket.socket]:
        """A client, and the backend's end of its connection."""
        client = self.client(**options)
        return client, self.keep(self.backend.accept())

    def keep(self, sock: S) -> S:
        self._open.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._open:
            sock.close()


# What is said in HTTP


def request(
    method: str = "GET", target: str = "/", *fields: str, body: bytes | str = b"", version: str = "1.1"
) -> bytes:
    """A request's bytes. A body gets its Content-Length, unless a field frames it otherwise."""
    return _message(f"{method} {target} HTTP/{version}", ("Host: test", *fields), body, is_sized=bool(body))


def response(status: int = 200, *fields: str, body: bytes | str = b"", version: str = "1.1") -> bytes:
    """A response's bytes, with Content-Length unless a field, or its status, frames it otherwise."""
    return _message(f"HTTP/{version} {status} Said", fields, body, is_sized=status >= 200 and status not in {204, 304})


def _message(line: str, fields: tuple[str, ...], body: bytes | str, *, is_sized: bool) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    if is_sized and not any(field.lower().startswith(("content-length", "transfer-encoding")) for field in fields):
        fields = (*fields, f"Content-Length: {len(data)}")
    return "\r\n".join((line, *fields, "", "")).encode() + data


def chunked(*chunks: bytes, trailers: str = "") -> bytes:
    """A body in these chunks; trailers are whole lines."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + f"0\r\n{trailers}\r\n".encode()


CHUNKED = "Transfer-Encoding: chunked"
CLOSE = "Connection: close"
GET = request()
POST = request("POST", "/orders", body="order")
OK = response(body="fine")


def read_head(sock: socket.socket) -> bytes:
    """Read a message's head, and nothing behind it."""
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        data += read(sock, 1)
    return bytes(data)


class Answered(NamedTuple):
    """A response as a client sees it; the names of the fields are in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes


def read_response(sock: socket.socket, *, method: str = "GET") -> Answered:
    """Read a response that says its length."""
    line, *lines = read_head(sock).decode().split("\r\n")[:-2]
    fields = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    size = 0 if method == "HEAD" else int(fields["content-length"])
    return Answered(int(line.split()[1]), fields, read(sock, size))


def ask(client: socket.socket, server: socket.socket, text: bytes = GET) -> None:
    """Let a request arrive."""
    client.sendall(text)
    assert read(server, len(text)) == text


def answer(client: socket.socket, server: socket.socket, text: bytes = OK) -> None:
    """Let a response arrive."""
    server.sendall(text)
    assert read(client, len(text)) == text


def exchange(client: socket.socket, server: socket.socket, asked: bytes = GET, answered: bytes = OK) -> None:
    ask(client, server, asked)
    answer(client, server, answered)


class HttpService(Service):
    """A service that understands requests. They are passed on as they are, unless the policy says otherwise."""

    def route(self, generation: int = 1, *backends: Listener, **policy: Any) -> dict[int, int]:
        return super().route(generation, *backends, **{"http": wire.Http(forwarded="off"), **policy})

    def route_nowhere(self, generation: int = 1, **policy: Any) -> dict[int, int]:
        """A policy without endpoints."""
        return self.control.route("web", generation, **{"http": wire.Http(forwarded="off"), **policy})

    def settle(self) -> None:
        """Wait until the worker has handled what it was sent so far: it sees what it is asked here after that."""
        for _ in range(3):  # what is ready to be read on waits for the next poll
            self.control.counts("web")

    def is_silent(self, sock: socket.socket) -> bool:
        """Whether nothing comes of what the worker was sent so far."""
        self.settle()
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)

    def end(self) -> dict[int, int]:
        """No generation is to come any more."""
        return self.route_nowhere(0)

    def asked(
        self, text: bytes = GET, backend: Listener | None = None, **options: Any
    ) -> tuple[socket.socket, socket.socket]:
        """A new client whose first request has arrived, and the backend's end."""
        client = self.client(**options)
        client.sendall(text)
        server = self.keep((backend or self.backend).accept())
        assert read(server, len(text)) == text
        return client, server

    def pair(self, backend: Listener | None = None, **options: Any) -> tuple[socket.socket, socket.socket]:
        """A client whose first request was answered, and the backend's end of its kept connection."""
        client, server = self.asked(backend=backend, **options)
        answer(client, server)
        return client, server

    def seeking(self, text: bytes = GET, **options: Any) -> socket.socket:
        """A new client whose request waits: the service is held, paused, or has no backend."""
        before = self.control.counts("web").waiting
        client = self.client(**options)
        client.sendall(text)
        self.control.counts_when("web", lambda counts: counts.waiting > before)
        return client

    def flushing(self) -> tuple[socket.socket, socket.socket, int]:
        """A client that has not taken all of a response which is complete in the worker, and how much it has to take.

        It asks again and again, and does not read.
        """
        client = self.client(receive_buffer=4096)
        client.sendall(GET)
        server = self.keep(self.backend.accept())
        size, text = 0, response(body=bytes(32_000))
        counts = self.control.counts("web").generations[1]
        while counts.received_backend == counts.sent_client:
            if size:
                client.sendall(GET)
            assert read(server, len(GET)) == GET
            server.sendall(text)
            size += len(text)
            counts = self._counts_after(size)
        return client, server, size

    def _counts_after(self, size: int) -> wire.GenerationCounts:
        """The counts once so many bytes have come from the first generation."""
        return self.control.counts_when(
            "web", lambda counts: counts.generations[1].received_backend == size
        ).generations[1]
