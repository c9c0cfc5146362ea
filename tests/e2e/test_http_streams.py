"""What is long, across a swap: responses, uploads, event streams, websockets; and what the deadline does to them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import PATIENCE, Events, Proxy, eventually, free_port, is_alive
from tests.e2e.http_harness import Backends, Kept, need_module, service, wait_in_flight
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UPLOAD = 100 << 20  # bytes


class Site:
    """A proxy in front of uvicorn; all tests here share it, each begins with the generation that is active then."""

    def __init__(self, proxy: Proxy, events: Events, backends: Backends, port: int) -> None:
        self.proxy, self.backends, self.port = proxy, backends, port
        self._events = events
        self.old = self.new = ""
        """What the backends say of the last switch: `VERSION GENERATION`."""

    def begin(self) -> None:
        """Begin a test: the one before has left nothing, and `old` is what answers."""
        eventually(lambda: self.proxy.service()["state"] == "serving", what="nothing drains any more")
        active = self.proxy.active()
        self.old = f"{active['version']} {active['id']}"
        self.new = f"{'v2' if active['version'] == 'v1' else 'v1'} {active['id'] + 1}"

    def switch(self, **options: Any) -> int:
        """Begin a swap, and return its number once new requests go to the new version."""
        number: int = self.proxy.begin("swap", version=self.new.split()[0], **options)["id"]
        self._events.wait(operation=number, phase="switch", state="end")
        return number

    def result(self, number: int) -> dict[str, Any]:
        result: dict[str, Any] = self._events.wait(operation=number, type="result")["result"]
        return result

    def assert_draining(self, *, remaining: int) -> None:
        """Only so many connections are still with the old generation."""

        def is_so() -> bool:
            generation = self.proxy.generation(int(self.old.split()[1]))
            assert generation, "it is gone"
            assert generation["state"] == "draining"
            return generation["drain"]["remaining"] == remaining  # type: ignore[no-any-return]

        eventually(is_so, what=f"{remaining} connections drain")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("streams")
    port, backends = free_port(), Backends(folder)
    # A deadline that no test lives to see, unless it gives its swap another.
    config = service(port, drain='deadline = "100s"', v1=backends.uvicorn(), v2=backends.uvicorn())
    with Proxy(folder, config) as proxy, Events(proxy) as events:
        yield Site(proxy, events, backends, port)


@pytest.fixture
def web(shared: Site) -> Site:
    shared.begin()
    return shared


@pytest.mark.parametrize("place", ["held", "silent"])
def test_a_response_of_some_seconds_ends_with_the_version_that_began_it_and_then_its_client_moves(
    web: Site, place: str
) -> None:
    """Half a response is out already, or none of it."""
    with Kept(web.port) as slow, Kept(web.port) as other:
        assert other.ask("GET").text == web.old
        slow.send("GET", f"/{place}/{place}")
        wait_in_flight(web.proxy, 1)
        (old,) = web.proxy.pids()
        number = web.switch()
        assert [other.ask("GET").text for _ in range(20)] == [web.new] * 20
        web.assert_draining(remaining=1)  # the slow one; the other connection has let go
        assert is_alive(old)
        web.backends.open(place)
        answer = slow.answer()
        assert answer.text == (f"{web.old} begins\n{web.old} ends\n" if place == "held" else web.old)
        result = web.result(number)
        assert (result["result"], result["forced"]) == ("swapped", 0)
        assert not is_alive(old)
        assert slow.ask("GET").text == web.new


def test_a_drain_lasts_as_long_as_the_longest_request_and_kept_connections_do_not_count(web: Site) -> None:
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(Kept(web.port)) for _ in range(20)]
        assert {client.ask("GET").text for client in kept} == {web.old}
        for number, client in enumerate(kept[:5]):
            client.send("GET", f"/silent/{number}")
        wait_in_flight(web.proxy, 5)
        swap = web.switch()
        web.assert_draining(remaining=5)
        for number, client in enumerate(kept[:5]):
            web.backends.open(str(number))
            assert client.answer().text == web.old
        assert web.result(swap)["forced"] == 0
        assert {client.ask("GET").text for client in kept} == {web.new}


def test_a_chunked_upload_of_100_mb_is_whole_and_not_kept_in_memory(web: Site) -> None:
    """From a pipe, so that a part of it is sent before the swap, and the rest after."""
    curl = [need("curl", package="curl"), "-sS", "-N", "-T", "-", "-H", "Expect:"]
    half = os.urandom(1 << 20) * (UPLOAD >> 21)
    with subprocess.Popen(
        [*curl, f"http://127.0.0.1:{web.port}/upload"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as upload:
        assert upload.stdin
        upload.stdin.write(half)
        upload.stdin.flush()
        wait_in_flight(web.proxy, 1)
        number = web.switch()
        with Kept(web.port) as other:
            assert other.ask("GET").text == web.new
        web.assert_draining(remaining=1)
        answer, _ = upload.communicate(half, timeout=PATIENCE)
    assert upload.returncode == 0
    assert answer.decode() == f"{web.old} {UPLOAD} {hashlib.sha256(half + half).hexdigest()}"
    assert web.result(number)["forced"] == 0
    assert max(map(_peak_memory, web.proxy.workers())) < UPLOAD


def _peak_memory(pid: int) -> int:
    """Bytes."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_pipelined_requests_that_meet_a_swap_are_answered_in_order_the_rest_by_the_new_version(web: Site) -> None:
    with Kept(web.port) as client, client.connection.sock.makefile("rb") as stream:
        paths = ["/silent/pipeline", "/", "/ids/1", "/"]
        client.write("".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in paths).encode())
        wait_in_flight(web.proxy, 1)
        number = web.switch()
        web.backends.open("pipeline")
        assert [_read_one(stream) for _ in paths] == [web.old, web.new, f"{web.new} 1", web.new]
        assert web.result(number)["forced"] == 0


def _read_one(stream: Any) -> str:
    """One response with a Content-Length; more may follow on the stream."""
    assert b" 200 " in stream.readline()
    headers = http.client.parse_headers(stream)
    body: bytes = stream.read(int(headers["content-length"]))
    return body.decode()


def test_an_event_stream_goes_on_with_the_old_version_until_its_client_leaves(web: Site) -> None:
    with _event_stream(web.port) as events:
        assert next(events) == web.old
        (old,) = web.proxy.pids()
        number = web.switch()
        assert [next(events) for _ in range(10)] == [web.old] * 10
        web.assert_draining(remaining=1)
    result = web.result(number)
    assert (result["drained"], result["forced"]) == (1, 0)
    assert not is_alive(old)


@contextlib.contextmanager
def _event_stream(port: int) -> Iterator[Iterator[str]]:
    """Yield the data of each event as it comes."""
    with Kept(port) as client:
        client.send("GET", "/events")
        with client.connection.getresponse() as response:
            assert response.headers["content-type"] == "text/event-stream"
            yield (line[6:].decode().strip() for line in iter(response.readline, b"") if line.startswith(b"data: "))


def test_a_websocket_lives_on_with_the_old_version_and_new_ones_go_to_the_new(web: Site) -> None:
    need_module("websockets")
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{web.port}/socket"
    with connect(url, proxy=None) as old:
        assert _echo(old, "one") == f"{web.old} one"
        number = web.switch()
        assert _echo(old, "two") == f"{web.old} two"
        with connect(url, proxy=None) as new:
            assert _echo(new, "three") == f"{web.new} three"
            assert _echo(old, "x" * 100_000) == f"{web.old} {'x' * 100_000}"
        web.assert_draining(remaining=1)
    result = web.result(number)
    assert (result["drained"], result["forced"]) == (1, 0)


def _echo(websocket: Any, message: str) -> str:
    websocket.send(message)
    answer: str = websocket.recv(timeout=PATIENCE)
    return answer


def test_at_the_deadline_what_is_still_open_is_ended_so_that_its_client_sees_it_and_others_live_on(web: Site) -> None:
    """An event stream, half a response and a websocket are cut; a request without any answer is told 504."""
    need_module("websockets")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with (
        _event_stream(web.port) as events,
        connect(f"ws://127.0.0.1:{web.port}/socket", proxy=None) as websocket,
        Kept(web.port) as half,
        Kept(web.port) as unanswered,
        Kept(web.port) as other,
    ):
        assert next(events) == web.old
        assert _echo(websocket, "one") == f"{web.old} one"
        half.send("GET", "/held/never")
        response = half.connection.getresponse()
        assert response.readline() == f"{web.old} begins\n".encode()
        unanswered.send("POST", "/silent/never", b"body")
        assert other.ask("GET").text == web.old
        wait_in_flight(web.proxy, 3)

        began = time.monotonic()
        number = web.switch(deadline="1s")
        answer = unanswered.answer()
        assert time.monotonic() - began >= 0.9
        assert answer.status == 504
        with pytest.raises(ConnectionResetError):
            _read_for_ever(events)
        with pytest.raises(ConnectionResetError):
            response.read()
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=PATIENCE)
        assert web.result(number)["forced"] == 4
        assert other.ask("GET").text == web.new
        assert unanswered.ask("GET").text == web.new


def _read_for_ever(events: Iterator[str]) -> None:
    while next(events):
        pass
