"""Live connections go from one worker to another, and nobody at either end of them notices."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from tests.relay.handing import (
    DESCRIPTORS,
    FRAME,
    SUMS,
    Couple,
    Middle,
    channel,
    hand_over,
    settled,
    two_workers,
    works,
)
from tests.relay.harness import (
    GET,
    WorkerProcess,
    answer,
    connect,
    decision,
    eventually,
    exchange,
    fill,
    is_quiet,
    read,
    read_head,
    read_to_end,
    request,
    reset,
    response,
    was_reset,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
KINDS = ("ipv4", "ipv6", "unix")


@pytest.fixture(scope="module")
def shared_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    with two_workers(tmp_path_factory.mktemp("workers")) as workers:
        yield workers


@pytest.fixture
def couple(shared_workers: tuple[WorkerProcess, WorkerProcess], tmp_path: Path) -> Iterator[Couple]:
    """Two workers with a service; no descriptor of it is left in either at the end."""
    before = [each.descriptors() for each in shared_workers]
    made = Couple(*shared_workers, tmp_path)
    yield made
    made.close()
    for each in shared_workers:
        each.reconnect().ask(wire.Forget, "web")
        each.control.counts_all()
    assert [each.descriptors() for each in shared_workers] == before
    assert [each.errors() for each in shared_workers] == [[], []]


@pytest.fixture
def giver(couple: Couple, fresh_worker: WorkerProcess) -> Iterator[Couple]:
    """The taker is the test's own, and may die."""
    yield from changed(couple, other=fresh_worker)


@pytest.fixture
def taker(couple: Couple, fresh_worker: WorkerProcess) -> Iterator[Couple]:
    """The giver is the test's own, and may die."""
    couple.control.ask(wire.Listen, "web", remove=(couple.public.address,))
    fresh_worker.control.listen("web", couple.public)
    yield from changed(couple, worker=fresh_worker)


def changed(couple: Couple, **workers: WorkerProcess) -> Iterator[Couple]:
    before = couple.workers
    for name, worker in workers.items():
        setattr(couple, name, worker)
    couple.workers = (couple.worker, couple.other)
    couple.control = couple.worker.control
    yield couple
    couple.workers = before


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Couple]:
    """Two workers of the test's own, for what does not leave them as they were."""
    with two_workers(tmp_path) as workers:
        made = Couple(*workers, tmp_path)
        yield made
        made.close()


def close(*pairs: tuple[socket.socket, socket.socket]) -> None:
    for client, server in pairs:
        client.close()
        server.close()


# What is carried


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_goes_on_in_the_other_worker_and_back(couple: Couple, kind: str) -> None:
    couple.public, couple.backend = couple.listener(kind), couple.listener(kind)
    couple.control.listen("web", couple.public)
    couple.route()
    pair = couple.pair()
    for _ in range(5):
        assert works(pair)
        assert couple.move().taken.carried == 1
    assert works(pair)
    assert works(couple.pair())


def test_many_connections_are_carried(couple: Couple) -> None:
    couple.route()
    pairs = [couple.pair() for _ in range(2000)]
    moved = couple.move()
    assert moved.taken.carried == 2000
    assert 0 < moved.taken.pause < 5.0
    assert couple.other.descriptors() < 100
    assert all(works(pair) for pair in pairs)
    assert couple.move().taken.carried == 2000
    assert all(works(pair) for pair in pairs)
    close(*pairs)
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    assert couple.total().connections == 2000
    assert sum(couple.total().duration.counts) == 2000


def test_a_client_that_has_said_all_still_gets_its_answer(couple: Couple) -> None:
    couple.route()
    client, server = couple.pair()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b"request"
    couple.move()
    server.sendall(b"answer")
    assert read(client, 6) == b"answer"
    couple.move()
    server.close()
    assert read_to_end(client) == b""


def test_a_backend_that_has_said_all_still_gets_the_rest(couple: Couple) -> None:
    couple.route()
    client, server = couple.pair()
    server.sendall(b"hello")
    server.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b"hello"
    couple.move()
    client.sendall(b"and")
    assert read(server, 3) == b"and"
    couple.move()
    client.sendall(b"more")
    client.close()
    assert read_to_end(server) == b"more"


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_an_end_that_comes_on_the_way_is_carried_over(couple: Couple, ending: str) -> None:
    """The client says its last words while the connection is with neither worker."""
    couple.route()
    client, server = couple.pair()
    with on_the_way(couple):
        client.sendall(b"last words")
        if ending == "fin":
            client.shutdown(socket.SHUT_WR)
        else:
            reset(client)
    assert read(server, 10) == b"last words"
    assert was_reset(server) == (ending == "reset")
    if ending == "fin":
        server.sendall(b"answer")
        server.close()
        assert read_to_end(client) == b"answer"


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_an_end_that_comes_on_the_way_is_carried_over_where_the_connection_stays(couple: Couple, ending: str) -> None:
    """The taker refuses it, so the giver takes it back."""
    couple.route()
    client, server = couple.pair()
    mine, far = channel()
    with mine:
        with far:
            given = couple.control.begin(wire.Handover, far.fileno())
        mine.recv(1000)
        mine.sendall(b'{"t":"hello","version":1}')
        for fd in socket.recv_fds(mine, 10_000, 2)[1]:
            os.close(fd)
        assert json.loads(mine.recv(1000)) == {"t": "round", "parcels": 1}
        client.sendall(b"last words")
        if ending == "fin":
            client.shutdown(socket.SHUT_WR)
        else:
            reset(client)
        mine.sendall(b'{"t":"ready","refused":[0]}')
        assert json.loads(mine.recv(1000)) == {"t": "go"}
        mine.sendall(b'{"t":"taken"}')
        assert json.loads(mine.recv(1000)) == {"t": "done"}
    assert read(server, 10) == b"last words"
    assert was_reset(server) == (ending == "reset")
    server.close()
    assert couple.control.through(given).error == ""


def test_full_buffers_are_carried_both_ways(couple: Couple) -> None:
    """The unsent remainder, up to a buffer each way, besides what is in the kernel."""
    couple.route()
    pairs = [couple.pair(receive_buffer=4096) for _ in range(5)]
    sent = [(fill(client), fill(server)) for client, server in pairs[:3]]
    assert couple.total().received_backend - couple.total().sent_client > 0
    for _ in range(3):
        couple.move()
    for (up, down), (client, server) in zip(sent, pairs, strict=False):
        assert not any(read(server, up))
        assert not any(read(client, down))
    assert all(works(pair) for pair in pairs)
    total = couple.total()
    assert total.received_client == total.sent_backend == sum(up for up, _ in sent) + 5
    assert total.received_backend == total.sent_client == sum(down for _, down in sent) + 5


def test_what_is_unsent_is_followed_by_the_end(couple: Couple) -> None:
    couple.route()
    client, server = couple.pair(receive_buffer=4096)
    size = fill(server)
    server.close()
    couple.move()
    couple.move()
    assert len(read_to_end(client)) == size


def test_an_early_answer_that_comes_on_the_way_arrives_although_the_request_was_not_read(couple: Couple) -> None:
    """The backend is reset, but what it said before that is still to be read."""
    couple.route()
    client, server = couple.pair()
    assert fill(client, limit=64 * MIB) < 64 * MIB
    with on_the_way(couple):
        server.sendall(b"HTTP/1.1 413 Too Large\r\n\r\n")
        server.close()
    assert read(client, 26) == b"HTTP/1.1 413 Too Large\r\n\r\n"
    assert was_reset(client)
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 0)


def test_what_a_client_sent_before_it_reset_is_not_kept_for_ever(couple: Couple) -> None:
    """The backend does not read, and the client is gone: the time for that runs on in the other worker."""
    couple.route()
    client, _server = couple.pair()
    fill(client, limit=64 * MIB)
    reset(client)
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    couple.move()
    start = time.monotonic()
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    assert time.monotonic() - start < 10


def test_an_urgent_byte_stays_in_the_stream(couple: Couple) -> None:
    couple.route()
    pair = couple.pair()
    for sender, receiver in (pair, pair[::-1]):
        sender.sendall(b"ab")
        sender.send(b"!", socket.MSG_OOB)
        couple.move()
        sender.sendall(b"cd")
        sender.send(b"!", socket.MSG_OOB)
        assert read(receiver, 6) == b"ab!cd!"


def test_an_urgent_byte_that_comes_on_the_way_stays_in_the_stream(couple: Couple) -> None:
    couple.route()
    pair = couple.pair()
    with on_the_way(couple):
        for sender in pair:
            sender.sendall(b"ab")
            sender.send(b"!", socket.MSG_OOB)
            sender.sendall(b"cd")
    for receiver in pair:
        assert read(receiver, 5) == b"ab!cd"


def test_the_idle_timeout_runs_on(couple: Couple) -> None:
    couple.route(idle_timeout=2.0)
    client, server = couple.pair()
    assert works((client, server))
    start = time.monotonic()
    time.sleep(0.5)
    couple.move()
    assert read_to_end(client) == b""
    assert 1.5 < time.monotonic() - start < 2.4
    assert read_to_end(server) == b""


def test_who_was_heard_on_the_way_is_not_idle(couple: Couple) -> None:
    """The timeout ends while nobody looks; what came meanwhile counts."""
    couple.route()
    client, server = couple.pair()
    couple.route(idle_timeout=0.5)
    with on_the_way(couple):
        time.sleep(0.7)
        client.sendall(b"here")
    assert read(server, 4) == b"here"
    assert read_to_end(client) == b""


@contextlib.contextmanager
def on_the_way(couple: Couple) -> Iterator[None]:
    """What is done meanwhile happens while no worker reads or sends."""
    middle = Middle(couple.worker.control, couple.other.control)
    while middle.pass_on() != "ready":
        pass
    yield
    middle.pass_all()
    assert couple.worker.control.through(middle.given).error == ""
    assert couple.other.control.through(middle.taken).error == ""
    couple.turn()


# Clients without a backend


def test_clients_that_wait_are_carried_and_let_go_by_the_next_route_in_order(couple: Couple) -> None:
    couple.route()
    couple.route(held=True)
    clients = [couple.client() for _ in range(100)]
    for number, client in enumerate(clients):
        client.sendall(b"%03d" % number)
    couple.control.counts_when("web", lambda counts: counts.waiting == 100)
    for _ in range(3):
        assert couple.move().taken.carried == 100
    assert couple.control.counts("web").waiting == 100
    assert couple.other.control.counts("web").waiting == 0
    couple.route()
    assert [int(read(couple.keep(couple.backend.accept()), 3)) for _ in clients] == list(range(100))


def test_a_client_that_is_being_connected_is_connected_by_the_other_worker(couple: Couple) -> None:
    backend, _knocker = couple.full_listener()
    couple.route(1, backend)
    client = couple.client()
    client.sendall(b"?")
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    couple.move()
    assert couple.other.control.counts("web").generations[1].active == 0
    backend.accept().close()
    assert eventually(lambda: next((got for got in [couple.keep(backend.accept()).recv(1)] if got), None)) == b"?"


def test_who_is_being_connected_may_arrive_when_the_service_ends(couple: Couple) -> None:
    """There are no endpoints any more, but the one that was tried."""
    backend, _knocker = couple.full_listener()
    couple.route(1, backend)
    client = couple.client()
    client.sendall(b"?")
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    for each in couple.workers:
        each.control.route("web", 0)
    couple.move()
    backend.accept().close()
    assert eventually(lambda: next((got for got in [couple.keep(backend.accept()).recv(1)] if got), None)) == b"?"


def test_a_client_does_not_wait_longer_for_having_been_carried(couple: Couple) -> None:
    for each in couple.workers:
        each.control.route("web", 1, connect_timeout=2.0)
    start = time.monotonic()
    client = couple.client()
    couple.control.counts_when("web", lambda counts: counts.waiting == 1)
    time.sleep(0.5)
    couple.move()
    assert was_reset(client)
    assert 1.9 < time.monotonic() - start < 2.4
    assert couple.control.counts("web").refused == {"no_backend": 1}


# Traffic


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives_in_order_however_often_its_connection_is_carried(couple: Couple, seed: int) -> None:
    couple.route()
    chance = random.Random(seed)
    talks = [Talk(couple.pair(receive_buffer=chance.choice((0, 4096))), chance) for _ in range(30)]
    for _ in range(25):
        for talk in talks:
            talk.go_on(chance.randrange(8))
        couple.move()
    for talk in talks:
        talk.finish()
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    total = couple.total()
    assert total.received_client == sum(talk.sent[0] for talk in talks)
    assert total.received_backend == sum(talk.sent[1] for talk in talks)
    assert (total.sent_backend, total.sent_client) == (total.received_client, total.received_backend)
    assert (total.connections, sum(total.duration.counts)) == (30, 30)


class Talk:
    """A conversation of random words; each side checks what it hears."""

    def __init__(self, pair: tuple[socket.socket, socket.socket], chance: random.Random) -> None:
        self.chance = chance
        self.ends = pair
        self.words = chance.randbytes(1 * MIB)
        self.sent = [0, 0]
        self.heard = [0, 0]
        self.has_ended = [False, False]
        for end in pair:
            end.setblocking(False)

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            side = self.chance.randrange(2)
            match self.chance.randrange(20):
                case 0:
                    self.end(side)
                case number if number < 10:
                    self.say(side, self.chance.choice((1, 100, 10_000, 300_000)))
                case _:
                    self.hear(side, self.chance.choice((1, 100, 10_000, 300_000)))

    def say(self, side: int, size: int) -> None:
        start = self.sent[side]
        if not self.has_ended[side] and (words := self.words[start : start + size]):
            with contextlib.suppress(BlockingIOError):
                self.sent[side] += self.ends[side].send(words)

    def hear(self, side: int, size: int) -> bytes | None:
        try:
            words = self.ends[side].recv(size)
        except BlockingIOError:
            return None
        start = self.heard[side]
        assert words == self.words[start : start + len(words)], "in order"
        self.heard[side] += len(words)
        return words

    def end(self, side: int) -> None:
        if not self.has_ended[side]:
            self.has_ended[side] = True
            self.ends[side].shutdown(socket.SHUT_WR)

    def finish(self) -> None:
        """Hear everything to the end."""
        for side in (0, 1):
            self.end(side)
        for end in self.ends:
            end.settimeout(20)
        for side in (0, 1):
            while self.hear(side, 1 << 20):
                pass
            assert self.heard[side] == self.sent[1 - side]


def test_streams_go_on_while_their_connections_are_carried(couple: Couple) -> None:
    """Both workers serve everybody else meanwhile, and counters never go backwards."""
    couple.route()
    data = os.urandom(24 * MIB)
    pairs = [couple.pair() for _ in range(3)]
    got: dict[int, bytes] = {}

    def send(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: socket.socket) -> None:
        got[sock.fileno()] = read_to_end(sock)

    ends = [end for pair in pairs for end in pair]
    threads = [threading.Thread(target=what, args=(end,)) for end in ends for what in (send, receive)]
    for thread in threads:
        thread.start()
    before: list[list[int]] = [[0] * (len(SUMS) - 1)] * 2
    moves = 0
    while any(thread.is_alive() for thread in threads) or moves < 5:
        couple.move()
        moves += 1
        for number, each in enumerate(sorted(couple.workers, key=id)):
            counts = each.control.counts("web").generations[1]
            now = [getattr(counts, name) for name in SUMS if name != "active"]
            assert all(new >= old for new, old in zip(now, before[number], strict=True))
            before[number] = now
    for thread in threads:
        thread.join()
    assert [got[end.fileno()] == data for end in ends] == [True] * 6
    couple.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    total = couple.total()
    assert total.received_client == total.sent_client == total.received_backend == total.sent_backend == 3 * len(data)


def test_both_workers_serve_others_and_control_in_the_middle_of_a_handover(couple: Couple) -> None:
    couple.route()
    moving = couple.pair()
    couple.other.control.listen("web", couple.public)
    middle = Middle(couple.worker.control, couple.other.control)
    while middle.pass_on() != "ready":
        pass
    assert works(couple.pair()), "the taker accepts what comes now"
    for each in couple.workers:
        assert each.control.counts("web")
        servings, descriptors = each.control.describe()
        assert [serving.service for serving in servings] == ["web"]
        for fd in descriptors.values():
            os.close(fd)
    assert "already" in refused(couple.worker, wire.Handover)
    assert "other way" in refused(couple.worker, wire.TakeOver)
    assert "already" in refused(couple.other, wire.Handover)
    middle.pass_all()
    assert works(moving)
    assert couple.worker.control.through(middle.given).error == ""
    assert couple.other.control.through(middle.taken).carried == 1
    couple.turn()


def refused(worker: WorkerProcess, kind: type[wire.Handover | wire.TakeOver]) -> str:
    ends = channel()
    with ends[0], ends[1]:
        number = worker.control.send(kind, fds=(ends[0].fileno(),))
        ack = worker.control.answers(number)[-1]
    assert isinstance(ack, wire.Ack)
    return ack.error


@pytest.mark.parametrize("kind", [wire.Handover, wire.TakeOver])
def test_a_handover_needs_a_socket(couple: Couple, kind: type[wire.Handover]) -> None:
    assert "one end" in couple.control.refused(kind)
    couple.route()
    assert works(couple.pair())


# Generations


def test_a_drain_goes_on_in_the_other_worker_and_is_never_said_to_be_over(couple: Couple) -> None:
    new = couple.listener()
    couple.route(1)
    pairs = [couple.pair() for _ in range(3)]
    couple.route(2, new)
    moved = couple.move()
    assert moved.taken.carried == 3
    for _ in range(2):
        couple.other.control.counts("web")
        couple.control.counts("web")
        assert couple.other.control.unasked == [], "the giver"
        assert couple.control.unasked == [wire.Remaining("web", 1, 3)], "the taker"
    couple.control.unasked.clear()
    assert all(works(pair) for pair in pairs)
    close(*pairs)
    while (remaining := couple.control.remaining()).connections:
        assert remaining.generation == 1
    assert couple.control.counts("web").generations[1].active == 0


def test_a_generation_and_an_endpoint_that_the_other_worker_never_knew_are_carried(couple: Couple) -> None:
    couple.worker.control.route("web", 1, couple.backend.address, version="v1")
    pairs = [couple.pair() for _ in range(3)]
    new = couple.listener()
    couple.route(2, new)
    couple.move()
    assert couple.control.counts("web").generations[1].active == 3
    assert all(works(pair) for pair in pairs)
    assert couple.control.ask(wire.Close, "web", 1).forced == 3
    assert [was_reset(client) for client, _ in pairs] == [True] * 3


def test_the_balance_counts_what_was_carried(couple: Couple) -> None:
    couple.route()
    pairs = [couple.pair() for _ in range(4)]
    couple.move()
    second = couple.listener()
    couple.route(1, couple.backend, second, balance="least")
    for _ in range(4):
        client = couple.client()
        assert works((client, couple.keep(second.accept())))
    assert all(works(pair) for pair in pairs)


def test_the_limit_on_connections_counts_what_was_carried(couple: Couple) -> None:
    couple.route(max_connections=3)
    pairs = [couple.pair() for _ in range(3)]
    couple.move()
    waiting = couple.client()
    waiting.sendall(b"?")
    assert is_quiet(couple.backend.sock)
    close(pairs[0])
    assert read(couple.keep(couple.backend.accept()), 1) == b"?"


# Mishaps


POINTS = ["hello", "hello", "raw", "parcels", "round", "ready", "go", "taken", "done"]


def five(couple: Couple) -> list[tuple[socket.socket, socket.socket]]:
    """Connections in different states, of which the first has a remainder that is unsent."""
    couple.route()
    return [couple.pair(receive_buffer=4096) for _ in range(5)]


@pytest.mark.parametrize(
    ("point", "frozen"), [*((point, False) for point in range(7)), *((point, True) for point in (2, 3, 4, 6))]
)
def test_a_taker_that_dies_takes_nothing_with_it(giver: Couple, point: int, *, frozen: bool) -> None:
    """Until it has said that it takes them. Frozen, it dies without having read what came last."""
    pairs = five(giver)
    sent = fill(pairs[0][1])
    middle = Middle(giver.worker.control, giver.other.control)
    for _ in range(point):
        middle.pass_on()
    if frozen:
        giver.other.freeze()
        middle.pass_on()
    giver.other.kill()
    middle.close()
    ack = giver.worker.control.through(middle.given)
    assert (ack.error, ack.carried) == ("the taker is gone", 0)
    assert read(pairs[0][0], sent) == bytes(sent)
    assert all(works(pair) for pair in pairs)
    assert works(giver.pair()), "it accepts again"
    assert giver.control.counts("web").generations[1].active == 6
    assert middle.passed == POINTS[: len(middle.passed)]


def test_a_taker_that_has_died_after_it_took_them_leaves_the_giver_in_order(giver: Couple) -> None:
    pairs = five(giver)
    middle = Middle(giver.worker.control, giver.other.control)
    while middle.pass_on() != "taken":
        pass
    giver.other.kill()
    middle.close()
    assert giver.worker.control.through(middle.given).carried == 5
    for client, server in pairs:
        with client, server:
            assert read_to_end(client) == b""
    assert giver.control.counts("web").generations[1].active == 0


@pytest.mark.parametrize("point", range(9))
def test_what_came_whole_goes_on_when_the_giver_dies(taker: Couple, point: int) -> None:
    pairs = five(taker)
    sent = fill(pairs[0][1])
    middle = Middle(taker.worker.control, taker.other.control)
    for _ in range(point):
        middle.pass_on()
    taker.worker.kill()
    middle.close()
    ack = taker.other.control.through(middle.taken)
    came = POINTS.index("parcels") < point
    assert (ack.error, ack.carried) == ("", 5 if came else 0)
    if came:
        assert len(read(pairs[0][0], sent)) == sent
        assert all(works(pair) for pair in pairs)
    taker.other.control.listen("web", taker.public)
    assert works(taker.pair())


def test_a_giver_that_exits_on_the_way_does_not_close_what_has_come(fresh: Couple) -> None:
    pairs = five(fresh)
    middle = Middle(fresh.worker.control, fresh.other.control)
    while middle.pass_on() != "parcels":
        pass
    fresh.worker.control.send(wire.Exit)
    assert fresh.worker.process.wait(20) == 0
    middle.close()
    assert fresh.other.control.through(middle.taken).carried == 5
    assert all(works(pair) for pair in pairs)


def test_a_taker_without_descriptors_refuses_and_the_giver_goes_on(fresh: Couple) -> None:
    fresh.route()
    pairs = [fresh.pair() for _ in range(10)]
    fresh.other.limit_descriptors(fresh.other.descriptors() + 8)
    middle = Middle(fresh.worker.control, fresh.other.control)
    while middle.pass_on() != "done":
        pass
    middle.close()
    taken = fresh.other.control.through(middle.taken)
    assert 0 < taken.carried < 10
    assert not fresh.worker.control.is_through(middle.given), "it has some left"
    assert middle.passed.count("round") == 1, "what was refused is not offered again"
    assert all(works(pair) for pair in pairs)
    assert fresh.control.counts("web").generations[1].active == 10 - taken.carried
    close(*pairs)
    given = fresh.worker.control.through(middle.given)
    assert (given.error, given.carried) == ("", taken.carried)
    fresh.other.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    assert "connections are refused" in fresh.other.logged()


def test_a_taker_that_does_not_have_the_service_refuses(couple: Couple) -> None:
    couple.worker.control.route("web", 1, couple.backend.address)
    pair = couple.pair()
    middle = Middle(couple.worker.control, couple.other.control)
    middle.pass_all()
    assert couple.other.control.through(middle.taken).carried == 0
    assert works(pair)
    close(pair)
    assert couple.worker.control.through(middle.given).error == ""
    couple.control.ask(wire.Listen, "web", remove=(couple.public.address,))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "carrier pigeon"},
        {"service": "unknown"},
        {"state": {}},
        {"state": None},
        {"state": {"place": {"endpoint": "nowhere"}}},
        {"sockets": 1},
        {"packed": "long ago"},
    ],
)
def test_a_parcel_that_makes_no_sense_is_refused_and_not_lost(couple: Couple, change: dict[str, object]) -> None:
    """Whoever wrote it has the connection still."""
    couple.route()
    pair = couple.pair()
    middle = Middle(couple.worker.control, couple.other.control)
    for _ in range(2):
        middle.pass_on()
    data, fds, kind = middle.receive(middle.giver)
    assert kind == "parcels"
    frame = json.loads(data)
    frame["parcels"][0].update(change)
    socket.send_fds(middle.taker, [json.dumps(frame).encode()], fds)
    for fd in fds:
        os.close(fd)
    middle.passed.append(kind)
    middle.pass_all()
    assert couple.other.control.through(middle.taken).carried == 0
    assert works(pair)
    close(pair)
    assert couple.worker.control.through(middle.given).carried == 0


def test_a_giver_of_another_version_is_refused_before_anything_is_touched(couple: Couple) -> None:
    mine, far = channel()
    with mine, far:
        number = couple.other.control.begin(wire.TakeOver, far.fileno())
        far.close()
        mine.sendall(b'{"t":"hello","version":99,"new":true}')
        assert json.loads(mine.recv(1000)) == {
            "t": "refused",
            "reason": "connections of handover version 99 cannot be read, only 1",
        }
    assert "version 99" in couple.other.control.through(number).error


def test_a_giver_that_is_refused_keeps_everything_and_accepts(couple: Couple) -> None:
    couple.route()
    pair = couple.pair()
    mine, far = channel()
    with mine, far:
        number = couple.control.begin(wire.Handover, far.fileno())
        far.close()
        assert json.loads(mine.recv(1000)) == {"t": "hello", "version": 1}
        mine.sendall(b'{"t":"refused","reason":"no"}')
        assert mine.recv(1000) == b""
    assert couple.control.through(number).error == "no"
    assert works(pair)
    assert works(couple.pair())


def test_a_taker_that_talks_nonsense_gets_nothing(fresh: Couple) -> None:
    """The giver says so and takes everything back, in whatever round they were."""
    fresh.route()
    pair = fresh.pair()
    for nonsense in (b"nonsense", b'{"t":"taken"}', b"[]", b'{"t":"go"}'):
        mine, far = channel()
        with mine, far:
            number = fresh.control.begin(wire.Handover, far.fileno())
            far.close()
            mine.recv(1000)
            mine.sendall(b'{"t":"hello","version":1}')
            _data, fds, _flags, _ = socket.recv_fds(mine, 100_000, 10)
            for fd in fds:
                os.close(fd)
            assert len(fds) == 2, nonsense
            assert json.loads(mine.recv(1000)) == {"t": "round", "parcels": 1}
            mine.sendall(nonsense)
            assert json.loads(mine.recv(1000))["t"] == "abort"
            assert mine.recv(1000) == b""
        assert fresh.control.through(number).error
        assert works(pair)
    # And one that says nothing, but leaves.
    mine, far = channel()
    with mine, far:
        number = fresh.control.begin(wire.Handover, far.fileno())
        far.close()
        mine.recv(1000)
    assert fresh.control.through(number).error
    assert works(pair)
    assert works(fresh.pair())
    fresh.worker.log.write_text("")


@pytest.mark.parametrize("early", [b'{"t":"ready","refused":[]}', b'{"t":"taken"}'])
def test_an_answer_that_comes_before_its_question_does_not_make_anybody_wait(fresh: Couple, early: bytes) -> None:
    fresh.route()
    pair = fresh.pair()
    mine, far = channel()
    with mine, far:
        number = fresh.control.begin(wire.Handover, far.fileno())
        far.close()
        assert json.loads(mine.recv(1000)) == {"t": "hello", "version": 1}
        mine.sendall(early)
        assert json.loads(mine.recv(1000))["t"] == "abort"
        assert mine.recv(1000) == b""
    assert "not asked for" in fresh.control.through(number).error
    assert works(pair)
    assert works(fresh.pair())
    fresh.worker.log.write_text("")


def test_a_second_hello_in_a_round_does_not_spoil_it(fresh: Couple) -> None:
    fresh.route()
    pair = fresh.pair()
    mine, far = channel()
    with mine, far:
        number = fresh.control.begin(wire.Handover, far.fileno())
        far.close()
        mine.recv(1000)
        mine.sendall(b'{"t":"hello","version":1}')
        for fd in socket.recv_fds(mine, 100_000, 10)[1]:
            os.close(fd)
        assert json.loads(mine.recv(1000)) == {"t": "round", "parcels": 1}
        mine.sendall(b'{"t":"hello","version":1}')
        assert json.loads(mine.recv(1000))["t"] == "abort"
    assert fresh.control.through(number).error
    assert works(pair)
    fresh.worker.log.write_text("")


# A taker that hangs


class ImpatientWorker(WorkerProcess):
    module = "tests.relay.impatient"


@pytest.fixture
def impatient(giver: Couple, tmp_path: Path) -> Iterator[Couple]:
    """The giver does not wait long for the taker, which is the test's own."""
    folder = tmp_path / "impatient"
    folder.mkdir()
    giver.control.ask(wire.Listen, "web", remove=(giver.public.address,))
    with ImpatientWorker(folder) as worker:
        worker.control.listen("web", giver.public)
        yield from changed(giver, worker=worker)


@pytest.mark.parametrize("point", range(4))
def test_a_taker_that_hangs_does_not_take_anybody_along(impatient: Couple, point: int) -> None:
    """Neither those that were on the way, nor those that come: whatever it had heard when it began to hang."""
    pairs = five(impatient)
    sent = fill(pairs[0][1])
    middle = Middle(impatient.worker.control, impatient.other.control)
    for _ in range(point):
        middle.pass_on()
    impatient.other.freeze()
    if middle.turn()[0] is middle.giver:
        middle.pass_on()
    ack = impatient.control.through(middle.given)
    assert (ack.error, ack.carried) == ("the taker does not answer", 0)
    assert read(pairs[0][0], sent) == bytes(sent)
    assert all(works(pair) for pair in pairs)
    assert works(impatient.pair()), "it accepts again"

    impatient.other.thaw()
    middle.pass_abort()
    assert impatient.other.control.through(middle.taken).error == "the taker does not answer"
    middle.close()
    assert all(works(pair) for pair in pairs), "who wakes up later does not touch them"
    assert impatient.control.counts("web").generations[1].active == 6
    assert hand_over(impatient.worker.control, impatient.other.control).taken.carried == 6, "nor is it spoilt for ever"


def test_a_taker_that_hangs_when_it_was_told_to_go_has_what_it_was_told_to_take(impatient: Couple) -> None:
    """Whether it has begun to touch them nobody knows. Whoever comes is served meanwhile."""
    pairs = five(impatient)
    middle = Middle(impatient.worker.control, impatient.other.control)
    while middle.pass_on() != "ready":
        pass
    impatient.other.freeze()
    assert middle.pass_on() == "go"
    newcomer = impatient.pair()
    assert works(newcomer)
    assert not impatient.control.is_through(middle.given)
    impatient.other.thaw()
    while middle.pass_on() != "done":
        pass
    given, taken = impatient.control.through(middle.given), impatient.other.control.through(middle.taken)
    assert (given.error, given.carried) == ("the taker does not answer", 5)
    assert (taken.error, taken.carried) == ("", 5)
    middle.close()
    assert all(works(pair) for pair in [*pairs, newcomer])
    assert impatient.control.counts("web").generations[1].active == 1, "who came stays"


def test_a_taker_that_does_not_even_read_keeps_nobody_out(impatient: Couple) -> None:
    """There is no room to tell it that the giver has given up; then it has to read, or to die."""
    impatient.route()
    pairs = [impatient.pair() for _ in range(2000)]
    mine, far = channel()
    with mine:
        with far:
            given = impatient.control.begin(wire.Handover, far.fileno())
        assert json.loads(mine.recv(1000)) == {"t": "hello", "version": 1}
        mine.sendall(b'{"t":"hello","version":1}')
        assert works(impatient.pair())
        assert not impatient.control.is_through(given)
        frames = [b""]
        while b'"abort"' not in frames[-1]:
            data, fds, _flags, _ = socket.recv_fds(mine, FRAME, DESCRIPTORS)
            for fd in fds:
                os.close(fd)
            assert data, "it says so before it leaves"
            frames.append(data)
        assert not any(b'"round"' in each for each in frames), "not all of them had fitted"
    ack = impatient.control.through(given)
    assert (ack.error, ack.carried) == ("the taker does not answer", 0)
    assert all(works(pair) for pair in pairs)
    close(*pairs)
    impatient.control.counts_when("web", lambda counts: counts.generations[1].active == 1)


def test_a_giver_that_gives_up_has_its_connections_to_itself(couple: Couple) -> None:
    """What the taker has parked is closed there, not taken."""
    couple.route()
    mine, far = channel()
    client, server = couple.pair()
    with mine, far:
        number = couple.other.control.begin(wire.TakeOver, far.fileno())
        far.close()
        mine.sendall(b'{"t":"hello","version":1}')
        mine.recv(1000)
        place = {"generation": 1, "version": "", "endpoint": couple.backend.address, "replica": 0}
        state = {"place": place, "accepted": 0.0, "last": 0.0, "client": {}, "backend": {}}
        parcel = {"kind": "tcp", "service": "web", "packed": 0.0, "sockets": 2, "state": state}
        frame = json.dumps({"t": "parcels", "parcels": [parcel]}).encode()
        socket.send_fds(mine, [frame], [client.fileno(), server.fileno()])
        mine.sendall(b'{"t":"abort","reason":"changed my mind"}')
        assert mine.recv(1000) == b""
    assert couple.other.control.through(number).error == "changed my mind"
    assert couple.other.control.counts("web").generations[1].active == 0
    assert works((client, server))


def test_a_giver_that_loses_control_ends_after_the_round_and_accepts_again(couple: Couple) -> None:
    """Nobody else may have its listeners any more."""
    couple.route()
    pair = couple.pair()
    middle = Middle(couple.worker.control, couple.other.control)
    while middle.pass_on() != "round":
        pass
    couple.worker.control.close()
    assert works(couple.pair())
    while middle.pass_on() != "done":
        pass
    middle.close()
    assert couple.other.control.through(middle.taken).carried == 1
    assert works(pair)
    couple.control = couple.worker.reconnect()
    assert couple.control.counts("web").generations[1].active == 1
    assert works(couple.pair())
    assert couple.move().taken.carried == 2


def test_a_giver_that_has_given_all_accepts_again_when_control_is_gone(couple: Couple) -> None:
    couple.route()
    pair = couple.pair()
    middle = Middle(couple.worker.control, couple.other.control)
    middle.pass_all()
    assert couple.control.through(middle.given).error == ""
    client = couple.client()
    client.sendall(b"?")
    assert is_quiet(couple.backend.sock), "it waits for the taker to have the listener"
    couple.control = couple.worker.reconnect()
    assert read(couple.keep(couple.backend.accept()), 1) == b"?"
    assert works(pair)
    couple.other.control.through(middle.taken)


def test_a_taker_goes_on_when_control_is_gone(couple: Couple) -> None:
    couple.route()
    pairs = [couple.pair() for _ in range(5)]
    middle = Middle(couple.worker.control, couple.other.control)
    while middle.pass_on() != "round":
        pass
    couple.other.reconnect()
    middle.pass_all()
    assert couple.control.through(middle.given).carried == 5
    assert all(works(pair) for pair in pairs)
    couple.turn()


def test_a_service_is_held_in_both_workers_while_its_clients_are_carried(couple: Couple) -> None:
    """A control that leaves then has decided for those as well."""
    new = couple.listener()
    couple.route()
    with decision(decided=True) as file:
        for each in couple.workers:
            each.control.hold("web", wire.Route(0, "web", 2, (wire.Endpoint(0, new.address),)), file)
    client = couple.client()
    client.sendall(b"?")
    couple.control.counts_when("web", lambda counts: counts.waiting == 1)
    couple.move()
    couple.control = couple.worker.reconnect()
    assert read(couple.keep(new.accept()), 1) == b"?"


def test_nothing_to_give_is_given_at_once(couple: Couple) -> None:
    couple.route()
    moved = couple.move()
    assert moved.taken == wire.Ack(moved.taken.seq)
    assert works(couple.pair())


def test_several_services_are_carried_together(couple: Couple) -> None:
    couple.route()
    other = couple.listener()
    couple.worker.control.listen("other", other)
    for each in couple.workers:
        each.control.route("other", 5, couple.backend.address)
    pairs = [couple.pair()]
    client = couple.keep(connect(other.address))
    pairs.append((client, couple.keep(couple.backend.accept())))
    assert couple.move().taken.carried == 2
    assert all(works(pair) for pair in pairs)
    assert couple.control.counts("other").generations[5].active == 1
    for each in couple.workers:
        each.control.ask(wire.Forget, "other")


def test_fifty_handovers_leave_nothing_behind(couple: Couple) -> None:
    couple.route()
    pairs = [couple.pair() for _ in range(10)]
    couple.move()
    couple.move()
    before = (couple.worker.descriptors(), couple.other.descriptors())
    memory = [each.rss() for each in couple.workers]
    for _ in range(50):
        couple.move()
    assert settled(couple, before)
    for each, size in zip(couple.workers, memory, strict=True):
        assert each.rss() < size * 1.1
    assert all(works(pair) for pair in pairs)


# HTTP


HTTP = wire.Http(forwarded="off")


def asked(couple: Couple, client: socket.socket) -> socket.socket:
    """Let a request arrive on a new connection to the backend."""
    client.sendall(GET)
    server = couple.keep(couple.backend.accept())
    assert read(server, len(GET)) == GET
    return server


def test_kept_http_connections_go_on_with_the_backend_that_they_had(couple: Couple) -> None:
    couple.route(http=HTTP)
    client = couple.client()
    server = asked(couple, client)
    answer(client, server)
    for _ in range(3):
        assert couple.move().taken.carried == 1
        exchange(client, server)
    counts = [each.control.counts("web").generations[1] for each in couple.workers]
    assert sum(each.requests["200"] for each in counts) == 4
    assert [each.control.counts("web").generations[1].active for each in (couple.worker, couple.other)] == [1, 0]


def test_http_goes_on_in_the_middle_of_everything(couple: Couple) -> None:
    """Half a head, half a body, half a response."""
    couple.route(http=HTTP)
    client = couple.client()
    text = request("POST", "/orders", body="order" * 1000)
    for start in range(0, len(text), 1000):
        client.sendall(text[start : start + 1000])
        couple.move()
    server = couple.keep(couple.backend.accept())
    assert read(server, len(text)) == text
    text = response(body="fine" * 1000)
    for start in range(0, len(text), 1000):
        server.sendall(text[start : start + 1000])
        couple.move()
    assert read(client, len(text)) == text
    exchange(client, server)


def test_a_request_that_waits_is_carried(couple: Couple) -> None:
    couple.route(http=HTTP)
    couple.route(held=True, http=HTTP)
    client = couple.client()
    client.sendall(GET)
    couple.control.counts_when("web", lambda counts: counts.waiting == 1)
    couple.move()
    couple.route(http=HTTP)
    server = couple.keep(couple.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)


def test_a_tunnel_is_carried(couple: Couple) -> None:
    couple.route(http=HTTP)
    client = couple.client()
    client.sendall(request("GET", "/chat", "Connection: Upgrade", "Upgrade: websocket"))
    server = couple.keep(couple.backend.accept())
    read_head(server)
    couple.move()
    answer(client, server, b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    couple.move()
    assert works((client, server))
