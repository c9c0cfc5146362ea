"""Whatever is asked and answered, in whichever pieces, across switches: each end gets exactly the other's bytes."""

from __future__ import annotations

import itertools
import random
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import wire
from tests.relay.harness import (
    CHUNKED,
    CLOSE,
    PATIENCE,
    HttpService,
    Listener,
    chunked,
    connect,
    eventually,
    read,
    read_head,
    read_to_end,
    request,
    response,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    Framed = tuple[tuple[str, ...], bytes]

HELD = 60_000  # a request of up to this size may be sent again, head and all
TEXT = b"GET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n0\r\n\r\n"  # must not be understood
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")
PLACES = ("asked", "in between", "answered")


class Turn(NamedTuple):
    """A request, its response, and what else happens."""

    asked: bytes
    answered: bytes
    is_early: bool  # it is answered before its body is read
    leaves: bool  # the backend closes afterwards, without having said so
    switches: str  # the route changes here, if this is one of PLACES
    seed: int

    def __repr__(self) -> str:
        """Bodies are long."""
        said = " ".join(f"{text[:80]!r}+{len(text[80:])}" for text in (self.asked, self.answered))
        return f"<{said} early={self.is_early} leaves={self.leaves} {self.switches} {self.seed}>"


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """Cut bytes, sometimes into single ones at the beginning or at the end."""
    dice = random.Random(seed)
    places = {dice.randrange(len(data) + 1) for _ in range(dice.choice((0, 0, 1, 3, 10)))}
    if dice.random() < 0.2:
        places |= set(range(min(len(data), 120)))
    if dice.random() < 0.2:
        places |= set(range(max(0, len(data) - 20), len(data)))
    cuts = [0, *sorted(places), len(data)]
    for start, end in itertools.pairwise(cuts):
        if start < end:
            yield data[start:end]


# What is said

sizes = st.sampled_from((0, 1, 2, 100, 4095, 9000, 70_000, 131_072, 300_000))
bodies = st.builds(lambda size: (TEXT * (size // len(TEXT) + 1))[:size], sizes)
chunks = st.lists(bodies.filter(bool), max_size=4)
with_length = st.builds(lambda body: ((f"Content-Length: {len(body)}",), body), bodies)
with_chunks = st.builds(
    lambda parts, trailers: ((CHUNKED,), chunked(*parts, trailers=trailers)),
    chunks,
    st.sampled_from(("", "X-Sum: 1\r\n")),
)
nothing = st.just(((), b""))


@st.composite
def answers(draw: st.DrawFn, method: str, *, is_last: bool) -> bytes:
    """A response to a request with this method."""
    interim = b"".join(draw(st.lists(st.sampled_from([response(100), response(103, "Link: </a>")]), max_size=2)))
    if draw(st.sampled_from((False, False, True))):
        return interim + response(draw(st.sampled_from((204, 304))))
    fields: tuple[str, ...]
    fields, body = draw(with_length | with_chunks)
    status = draw(st.sampled_from((200, 200, 404, 500)))
    if is_last:
        end = draw(st.sampled_from(("", "said", "until close")))
        if end == "said":
            fields = (*fields, CLOSE)
        elif end == "until close" and method != "HEAD":
            head = response(status, CLOSE, "Content-Length: ").replace(b"Content-Length: \r\n", b"")
            return interim + head + body
    return interim + response(status, *fields) + (b"" if method == "HEAD" else body)


@st.composite
def conversations(draw: st.DrawFn) -> list[list[Turn]]:
    """What some clients say."""
    made = []
    for number in range(draw(st.integers(1, 3))):
        turns: list[Turn] = []
        for place in range(length := draw(st.integers(1, 6))):
            method = draw(st.sampled_from((*IDEMPOTENT, "POST", "PURGE")))
            fields, body = draw(nothing | with_length | with_chunks)
            is_last = place == length - 1
            if is_last and draw(st.booleans()):
                fields = (*fields, CLOSE)
            asked = request(method, f"/{number}/{place}", *fields) + body
            if turns and (method not in IDEMPOTENT or len(asked) > HELD):
                turns[-1] = turns[-1]._replace(leaves=False)
            answered = draw(answers(method, is_last=is_last))
            turns.append(
                Turn(
                    asked,
                    answered,
                    is_early=draw(st.booleans()) and CLOSE.encode() not in answered,  # else nobody needs to read it
                    leaves=draw(st.booleans()),
                    switches=draw(st.sampled_from(("", "", *PLACES))),
                    seed=draw(st.integers(0, 1 << 32)),
                )
            )
        made.append(turns)
    return made


# Who says it


class Backend:
    """Answers as the turns have it, and notes what was asked."""

    def __init__(self, listener: Listener, stage: Stage) -> None:
        self._listener = listener
        self._stage = stage
        self._pool = ThreadPoolExecutor(16)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.sock.accept()
            if self._stage.is_over:
                sock.close()
                return
            sock.settimeout(PATIENCE)
            self._pool.submit(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while sock.recv(1, socket.MSG_PEEK) and self._take_turn(sock):
                    pass
            except Exception as error:  # noqa: BLE001  # the test looks at these
                self._stage.errors.append(repr(error))

    def _take_turn(self, sock: socket.socket) -> bool:
        """Serve one request; return whether the connection is kept."""
        stage = self._stage
        head = read_head(sock)
        turn = stage.turns[head.split()[1].decode()]
        assert turn.asked.startswith(head), head
        size = len(turn.asked) - len(head)
        if not turn.is_early:
            assert head + read(sock, size) == turn.asked
        if turn.switches == "asked":
            stage.switch()
        for place, piece in enumerate(pieces(turn.answered, turn.seed)):
            sock.sendall(piece)
            if place == 1 and turn.switches == "in between":
                stage.switch()
        if turn.is_early:
            assert head + read(sock, size) == turn.asked
        if turn.switches == "answered":
            stage.switch()
        stage.serve(turn)
        return not turn.leaves and CLOSE.encode() not in turn.answered

    def stop(self) -> None:
        connect(self._listener.address).close()
        self._thread.join()
        self._pool.shutdown()


class Stage:
    """Three backends, among which the route changes."""

    def __init__(self, web: HttpService) -> None:
        self._web = web
        self._lock = threading.Lock()
        self._generation = self._forgotten = 0
        self._listeners = [web.listener(kind) for kind in ("ipv4", "unix", "ipv6")]
        self.turns: dict[str, Turn] = {}
        self.served: Counter[bytes] = Counter()
        self.finished = 0
        self.errors: list[str] = []
        self.is_over = False
        self.switch()
        self.backends = [Backend(listener, self) for listener in self._listeners]

    def begin(self, turns: list[list[Turn]]) -> None:
        self.turns = {turn.asked.split()[1].decode(): turn for each in turns for turn in each}
        self.served.clear()
        self.finished = 0
        self.errors.clear()
        for generation in range(self._forgotten + 1, self._generation):
            self._web.control.ask(wire.Forget, "web", generation)
        self._forgotten = self._generation - 1

    def serve(self, turn: Turn) -> None:
        with self._lock:
            self.served[turn.asked.split()[1]] += 1
            self.finished += 1

    def switch(self) -> None:
        with self._lock:
            if self._generation:
                self._web.hold()
            self._generation += 1
            self._web.route(self._generation, self._listeners[self._generation % 3])

    def totals(self) -> tuple[int, int, int, int]:
        """Bytes from the clients, bytes to them, requests and connections, of all generations."""
        with self._lock:
            web = self._web.control.counts("web").generations.values()
        return (
            sum(each.received_client for each in web),
            sum(each.sent_client for each in web),
            sum(sum(each.requests.values()) for each in web),
            sum(each.active for each in web),
        )

    def is_done(self) -> bool:
        """Whether the backends have come to the end, and nobody is connected any more."""
        return self.finished == len(self.turns) and not self.totals()[3]

    def close(self) -> None:
        self.is_over = True
        for backend in self.backends:
            backend.stop()


def talk(address: str, turns: list[Turn], *, in_turn: bool) -> bytes:
    """Ask everything, ahead or in turn, and then end; return all that was answered."""
    with connect(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""

        def say(text: bytes, seed: int) -> None:
            for piece in pieces(text, seed):
                sock.sendall(piece)

        def say_all(text: bytes, seed: int) -> None:
            say(text, seed)
            sock.shutdown(socket.SHUT_WR)

        if in_turn:
            for turn in turns:
                with ThreadPoolExecutor(1) as other:  # it may be answered before it is said
                    saying = other.submit(say, turn.asked, turn.seed)
                    got += read(sock, len(turn.answered))
                    saying.result()
            sock.shutdown(socket.SHUT_WR)
            return got + read_to_end(sock)
        with ThreadPoolExecutor(1) as other:
            saying = other.submit(say_all, b"".join(turn.asked for turn in turns), turns[0].seed)
            got = read_to_end(sock)
            saying.result()
        return got


def test_each_end_gets_exactly_what_the_other_one_said(web: HttpService) -> None:
    stage = Stage(web)

    @settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(conversations(), st.booleans())
    def check(everything: list[list[Turn]], in_turn: bool) -> None:  # drawn by position
        stage.begin(everything)
        before = stage.totals()
        with ThreadPoolExecutor(len(everything)) as clients:
            said = [clients.submit(talk, web.public.address, turns, in_turn=in_turn) for turns in everything]
            heard = [each.result() for each in said]
        assert stage.errors == []
        assert heard == [b"".join(turn.answered for turn in turns) for turns in everything]
        eventually(lambda: stage.is_done() or None)
        assert all(count == 1 for count in stage.served.values()), "nothing was processed twice"
        after = stage.totals()
        assert [now - then for now, then in zip(after, before, strict=True)] == [
            sum(len(turn.asked) for turn in stage.turns.values()),
            sum(len(turn.answered) for turn in stage.turns.values()),
            len(stage.turns),
            0,
        ]

    try:
        check()
    finally:
        stage.close()
