"""Services that are steered: what the machine has to allow, what the kernel holds, and clients that it treats apart."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.e2e import configs
from tests.e2e.crash_harness import Mortal
from tests.e2e.harness import PATIENCE, Held, eventually
from tests.e2e.steer.servers import PROGRAMS, many
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from tests.e2e.harness import Answer, Events

BPFFS = Path("/sys/fs/bpf")
PINS = BPFFS / "proxyctl"
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39


def need_steering() -> None:
    """Skip the test, or fail it, where this user may not steer. Mounts bpffs if nobody did, as systemd does at boot."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    if not effective >> _CAP_NET_ADMIN & 1 or not (effective >> _CAP_BPF | effective >> _CAP_SYS_ADMIN) & 1:
        missing("steering needs CAP_NET_ADMIN and CAP_BPF: run the tests as root")
    if not _is_bpffs() and not _mount_bpffs():
        missing(f"steering needs bpffs: mount -t bpf bpf {BPFFS}")


def _is_bpffs() -> bool:
    return any(line.split()[1:3] == [str(BPFFS), "bpf"] for line in Path("/proc/mounts").read_text().splitlines())


def _mount_bpffs() -> bool:
    """One on top of the other would hide what is pinned in the first: tests that run side by side wait."""
    lock = os.open(BPFFS.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_bpffs():
            return True
        libc = ctypes.CDLL(None, use_errno=True)
        result: int = libc.mount(b"bpf", bytes(BPFFS), b"bpf", _MS_NOSUID_NODEV_NOEXEC, b"mode=0700")
        return result == 0
    finally:
        os.close(lock)


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


# What the kernel holds: bpf(2), asked without the product's own code.

_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 321)
_MAP_LOOKUP, _MAP_GET_NEXT_KEY, _OBJ_GET = 1, 4, 7
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID = 11, 13, 14
_OBJ_GET_INFO_BY_FD, _LINK_GET_FD_BY_ID, _LINK_GET_NEXT_ID, _LINK_DETACH = 15, 30, 31, 34
_SK_LOOKUP = 30  # BPF_PROG_TYPE_SK_LOOKUP
_HASH, _ARRAY = 1, 2  # BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Steering:
    """A program that steers a port, with what belongs to it, by the kernel's ids."""

    program: int
    maps: frozenset[int]
    links: frozenset[int]
    pins: frozenset[Path]

    def remove(self) -> None:
        for pin in self.pins:
            pin.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                pin.parent.rmdir()

    def is_gone(self) -> bool:
        """Whether nothing of it is left, under no name."""
        return not (
            _has(_PROG_GET_FD_BY_ID, {self.program})
            or _has(_MAP_GET_FD_BY_ID, self.maps)
            or _has(_LINK_GET_FD_BY_ID, self.links)
            or any(pin.exists() or pin.parent.exists() for pin in self.pins)
        )


def steerings(port: int) -> list[Steering]:
    """Every sk_lookup program of this machine that has the port among its listeners."""
    found = []
    pinned = {path: identity for path in PINS.glob("**/*") if (identity := _pinned(path))}
    links = {link: struct.unpack_from("=I", _info("link", link), 8)[0] for link in _ids(_LINK_GET_NEXT_ID)}
    for program in _ids(_PROG_GET_NEXT_ID):
        with contextlib.suppress(FileNotFoundError):
            maps = _maps_of(program)
            if any(port in _ports_in(each) for each in maps):
                own = frozenset(link for link, of in links.items() if of == program)
                things = {("map", each) for each in maps} | {("link", each) for each in own} | {("prog", program)}
                pins = frozenset(path for path, identity in pinned.items() if identity in things)
                found.append(Steering(program, frozenset(maps), own, pins))
    return found


def is_steered(port: int) -> bool:
    """Whether new connections to the port go to some generation."""
    for steering in steerings(port):
        maps = {_kind_of(each): each for each in steering.maps}
        listeners, services = maps[_HASH, 24], maps[_ARRAY, 4]
        for key in _keys(listeners):
            if struct.unpack_from("=I", key, 4)[0] == port:
                return _value(services, _value(listeners, key, 4), 128)[:4] != bytes(4)
    return False


def _bpf(command: int, layout: str, *values: int) -> bytes:
    """Make the call; returns its attributes as the kernel has left them, with the result in the last 8 bytes."""
    attributes = ctypes.create_string_buffer(struct.pack(layout, *values).ljust(128, b"\0"), 128)
    result: int = _libc.syscall(_BPF, command, ctypes.byref(attributes), 128)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return attributes.raw[:120] + struct.pack("=q", result)


def _descriptor(command: int, layout: str, *values: int) -> int:
    descriptor: int = struct.unpack("=q", _bpf(command, layout, *values)[120:])[0]
    return descriptor


def _ids(command: int) -> Iterator[int]:
    last = 0
    with contextlib.suppress(FileNotFoundError):
        while True:
            last = struct.unpack_from("=I", _bpf(command, "=I", last), 4)[0]
            yield last


def _has(command: int, ids: Collection[int]) -> bool:
    for each in ids:
        with contextlib.suppress(FileNotFoundError):
            os.close(_descriptor(command, "=I", each))
            return True
    return False


def _info(kind: str, identity: int, first: bytes = b"") -> bytes:
    """bpf_prog_info, bpf_map_info or bpf_link_info, which begins as `first`; zeros for a link that has just gone."""
    command = {"prog": _PROG_GET_FD_BY_ID, "map": _MAP_GET_FD_BY_ID, "link": _LINK_GET_FD_BY_ID}[kind]
    try:
        descriptor = _descriptor(command, "=I", identity)
    except FileNotFoundError:
        if kind == "link":
            return bytes(64)
        raise
    try:
        return _info_of(descriptor, first)
    finally:
        os.close(descriptor)


def _info_of(descriptor: int, first: bytes = b"") -> bytes:
    buffer = ctypes.create_string_buffer(first.ljust(80, b"\0"), 80)
    _bpf(_OBJ_GET_INFO_BY_FD, "=IIQ", descriptor, 80, ctypes.addressof(buffer))
    return buffer.raw


def _maps_of(program: int) -> set[int]:
    maps = (ctypes.c_uint32 * 64)()
    first = bytes(52) + struct.pack("=IQ", 64, ctypes.addressof(maps))  # nr_map_ids, map_ids
    info = _info("prog", program, first)
    kind, _ = struct.unpack_from("=II", info)
    return set(maps[: struct.unpack_from("=I", info, 52)[0]]) if kind == _SK_LOOKUP else set()


def _ports_in(number: int) -> set[int]:
    """The ports of a map from listeners to services: family, port (u32 each) and 16 bytes of address are its keys."""
    if _kind_of(number) != (_HASH, 24):
        return set()
    return {struct.unpack_from("=I", key, 4)[0] for key in _keys(number)}


def _kind_of(number: int) -> tuple[int, int]:
    """A map's type, and the size of its keys; of arrays, whose keys are numbers all, the one with the names apart."""
    kind, _, key_size, value_size = struct.unpack_from("=IIII", _info("map", number))
    return kind, key_size if kind == _HASH or value_size == 128 else 0


def _keys(number: int) -> list[bytes]:
    descriptor = _descriptor(_MAP_GET_FD_BY_ID, "=I", number)
    key, after = ctypes.create_string_buffer(24), ctypes.create_string_buffer(24)
    found: list[bytes] = []
    try:
        while True:
            before = ctypes.addressof(key) if found else 0
            _bpf(_MAP_GET_NEXT_KEY, "=I4xQQ", descriptor, before, ctypes.addressof(after))
            key.raw = after.raw
            found.append(after.raw)
    except FileNotFoundError:
        return found
    finally:
        os.close(descriptor)


def _value(number: int, key: bytes, size: int) -> bytes:
    """What a map has at a key; zeros if nothing."""
    descriptor = _descriptor(_MAP_GET_FD_BY_ID, "=I", number)
    name, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        with contextlib.suppress(FileNotFoundError):
            _bpf(_MAP_LOOKUP, "=I4xQQ", descriptor, ctypes.addressof(name), ctypes.addressof(value))
        return value.raw
    finally:
        os.close(descriptor)


def _pinned(path: Path) -> tuple[str, int] | None:
    """What is pinned there: "map", "prog" or "link", and its id; None for a folder, and for what has just gone."""
    name = ctypes.create_string_buffer(bytes(path))
    try:
        descriptor = _descriptor(_OBJ_GET, "=Q", ctypes.addressof(name))
    except OSError:
        return None
    try:
        kind = os.readlink(f"/proc/self/fd/{descriptor}").replace("_", "-").rpartition("bpf-")[2]
        return kind, struct.unpack_from("=I", _info_of(descriptor), 4)[0]
    finally:
        os.close(descriptor)


def marked(port: int) -> int:
    """How many TCP connections with this port of ours bear a mark, as ss shows them."""
    ss = need("ss", package="iproute2")
    shown = subprocess.run([ss, "-Htane", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return sum("fwmark:" in line for line in shown.splitlines() if not line.startswith("TIME-WAIT"))


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


# Clients.


def raise_limit() -> None:
    """Let this process have as many descriptors as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Standing:
    """So many clients that have had one answer and stay; use as a context manager."""

    _REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, port: int, count: int, *, host: str = "127.0.0.1") -> None:
        self.sockets: list[socket.socket] = []
        self.answers: list[str] = []
        try:
            for _ in range(count):
                self.sockets.append(socket.create_connection((host, port), PATIENCE))
            self.ask()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self.sockets:
            each.close()

    def ask(self) -> None:
        """Each of them has another answer; OSError or ValueError if one is lost."""
        for each in self.sockets:
            each.sendall(self._REQUEST)
        answers = [each.recv(4096) for each in self.sockets]
        if not all(answer.startswith(b"HTTP/1.1 200") for answer in answers):
            raise ValueError(f"lost: {sum(not answer for answer in answers)} of {len(answers)}")
        self.answers = [answer.decode().rpartition("\r\n")[2] for answer in answers]

    def ended(self) -> int:
        """How many have been ended or reset by the other side, as far as this is known here."""
        poll = select.poll()
        for each in self.sockets:
            poll.register(each, select.POLLIN | select.POLLRDHUP)
        return sum(bool(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)) for _, event in poll.poll(0))


_DROP_ALL = struct.pack(
    "=HBBI", 0x06, 0, 0, 0
)  # one classic BPF instruction, `ret #0`: see socket(7), SO_ATTACH_FILTER
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27


class HalfOpen:
    """Clients that have sent a SYN and do not hear the answer: half-open handshakes, and nobody resets them.

    A context manager; `finish` lets them hear again. The listener's next SYN-ACK comes within a second or three.
    """

    def __init__(self, port: int, count: int, *, host: str = "127.0.0.1") -> None:
        self.sockets: list[socket.socket] = []
        for _ in range(count):
            client = socket.socket()
            self.sockets.append(client)
            program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
            client.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))
            client.setblocking(False)
            client.connect_ex((host, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.sockets:
            client.close()

    def finish(self) -> list[socket.socket]:
        for client in self.sockets:
            client.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, b"\0" * 4)
            client.settimeout(PATIENCE)
        return self.sockets


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[Callable[[], None]]:
    """A process that does nothing; yields what lets it go on."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="it stands")

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    try:
        yield go_on
    finally:
        go_on()


# Elsewhere.


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


def result(events: Events, number: int) -> dict[str, Any]:
    """The result of an operation, when it has come."""
    found: dict[str, Any] = events.wait(operation=number, type="result")["result"]
    return found
