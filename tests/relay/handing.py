"""Two workers that hand each other their connections, and a test in the middle that can see every frame."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from proxy import wire
from tests.relay.harness import PATIENCE, Listener, Service, WorkerProcess, eventually, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.relay.harness import Control

FRAME = 1 << 20
DESCRIPTORS = 250


class Moved(NamedTuple):
    given: wire.Ack
    taken: wire.Ack


def channel() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.settimeout(PATIENCE)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FRAME)
    return ends


def hand_over(giver: Control, taker: Control) -> Moved:
    """Hand everything over, and wait for both to be through."""
    ends = channel()
    with ends[0], ends[1]:
        given = giver.begin(wire.Handover, ends[0].fileno())
        taken = taker.begin(wire.TakeOver, ends[1].fileno())
    return Moved(giver.through(given), taker.through(taken))


class Couple(Service):
    """A service called "web" in two workers; what is public is accepted by the one that has the connections."""

    def __init__(self, worker: WorkerProcess, other: WorkerProcess, folder: Path) -> None:
        super().__init__(worker, folder)
        self.other = other
        self.workers = (worker, other)

    def route(self, generation: int = 1, *backends: Listener, **policy: object) -> dict[int, int]:
        addresses = [backend.address for backend in backends or [self.backend]]
        counts = [each.control.route("web", generation, *addresses, **policy) for each in self.workers]
        return {number: sum(each.get(number, 0) for each in counts) for each in counts for number in each}

    def move(self) -> Moved:
        """Hand everything over to the other worker, which accepts from then on."""
        moved = hand_over(self.worker.control, self.other.control)
        assert (moved.given.error, moved.taken.error) == ("", "")
        assert moved.given.carried == moved.taken.carried
        self.turn()
        return moved

    def turn(self) -> None:
        """Let the other worker have the public listener."""
        self.other.control.listen("web", self.public)
        self.worker.control.ask(wire.Listen, "web", remove=(self.public.address,))
        self.worker, self.other = self.other, self.worker
        self.control = self.worker.control

    def total(self, generation: int = 1) -> wire.GenerationCounts:
        """What both have counted together."""
        total = wire.GenerationCounts()
        for each in self.workers:
            counts = each.control.counts("web").generations.get(generation, wire.GenerationCounts())
            for name in SUMS:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
            total.duration.add(counts.duration)
            total.connect.add(counts.connect)
        return total


SUMS = ("active", "connections", "received_client", "received_backend", "sent_client", "sent_backend")


def works(pair: tuple[socket.socket, socket.socket]) -> bool:
    """Whether bytes move both ways."""
    client, server = pair
    client.sendall(b"?")
    server.sendall(b"!")
    return read(server, 1) == b"?" and read(client, 1) == b"!"


class Between:
    """Sits between giver and taker, with the other ends of their sockets, and passes frames on, one at a time."""

    def __init__(self, giver: socket.socket, taker: socket.socket) -> None:
        self.giver = giver
        self.taker = taker
        self.passed: list[str] = []

    def receive(self, source: socket.socket) -> tuple[bytes, list[int], str]:
        """Return the next frame, its descriptors, and what kind it is."""
        data, fds, _flags, _ = socket.recv_fds(source, FRAME, DESCRIPTORS)
        if not data:
            raise EOFError("the other end is gone")
        return data, fds, "raw" if data[:1] == b"\0" else json.loads(data)["t"]

    def pass_on(self) -> str:
        """Pass the next frame on; return what kind it was."""
        return self._pass(*self.turn())

    def pass_abort(self) -> None:
        """Pass on what the giver says, whoever's turn it is, until it has given up."""
        while self._pass(self.giver, self.taker) != "abort":
            pass

    def _pass(self, source: socket.socket, target: socket.socket) -> str:
        data, fds, kind = self.receive(source)
        try:
            socket.send_fds(target, [data], fds)
        finally:
            for fd in fds:
                os.close(fd)
        self.passed.append(kind)
        return kind

    def turn(self) -> tuple[socket.socket, socket.socket]:
        """Whose turn it is to say something, and who is to hear it."""
        from_giver = (self.giver, self.taker)
        if not self.passed:
            return from_giver
        last = self.passed[-1]
        if (last == "hello" and len(self.passed) == 1) or last in {"round", "go"}:
            return self.taker, self.giver
        return from_giver

    def pass_all(self) -> None:
        while self.passed[-1:] != ["done"]:
            self.pass_on()
        self.close()

    def close(self) -> None:
        self.giver.close()
        self.taker.close()


class Middle(Between):
    """The same, between two workers that it has begin."""

    def __init__(self, giver: Control, taker: Control) -> None:
        (mine, far), (other, other_far) = channel(), channel()
        with far, other_far:
            self.given = giver.begin(wire.Handover, far.fileno())
            self.taken = taker.begin(wire.TakeOver, other_far.fileno())
        super().__init__(mine, other)


@contextlib.contextmanager
def two_workers(folder: Path, **options: int) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    folders = [folder / "one", folder / "two"]
    for each in folders:
        each.mkdir()
    with WorkerProcess(folders[0]) as one, WorkerProcess(folders[1], **options) as two:
        yield one, two


def settled(couple: Couple, descriptors: tuple[int, int]) -> bool:
    """Wait until both workers have as many descriptors as before."""
    return eventually(lambda: tuple(each.descriptors() for each in couple.workers) == descriptors or None)
