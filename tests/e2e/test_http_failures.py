"""What an HTTP client sees when backends break, clients dawdle, or somebody pauses or stops the proxy."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import resource
import select
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import PATIENCE, Proxy, eventually, free_port, kill
from tests.e2e.http_harness import FULL, Backends, Kept, counter, exchange, service, wait_in_flight
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_HEADS = 5_000 if FULL else 500
"""How many clients send a head byte by byte; the suite's number is for the time it takes, HTTP_SWAPS_FULL=1 for all."""


class Site:
    """A proxy in front of plain.py."""

    def __init__(self, proxy: Proxy, backends: Backends, port: int) -> None:
        self.proxy, self.backends, self.port = proxy, backends, port

    def requests(self, code: int) -> float:
        """How many requests have been answered with a status."""
        return counter(self.proxy, "proxy_http_requests_total", service="web", code=str(code))

    def retries(self) -> float:
        return counter(self.proxy, "proxy_http_retries_total", service="web")

    def ids(self) -> list[str]:
        """What the backends have counted."""
        return [identity for identity, _, _ in self.backends.entries()]


@contextlib.contextmanager
def site(folder: Path, *, replicas: int = 1, keys: str = "", http: str = "", head: str = "") -> Iterator[Site]:
    port, backends = free_port(), Backends(folder)
    versions = {name: backends.version("plain", replicas=replicas) for name in ("v1", "v2")}
    with Proxy(folder, head + service(port, keys=keys, http=http, **versions)) as proxy:
        eventually(lambda: all(each["healthy"] for each in proxy.active()["replicas"]), what="all replicas are healthy")
        yield Site(proxy, backends, port)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For the tests that leave it as it was."""
    with site(tmp_path_factory.mktemp("failures")) as made:
        yield made


# ---- backends that die


def test_requests_that_wait_for_a_backend_that_dies_are_sent_again_only_where_that_is_safe(tmp_path: Path) -> None:
    with site(tmp_path, replicas=3, head="workers = 1\n") as web, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Kept(web.port)) for _ in range(12)]
        gets, posts = clients[:6], clients[6:]
        for number, client in enumerate(clients, 1):  # two GETs and two POSTs for each replica
            client.send("GET" if client in gets else "POST", "/silent/gate")
            wait_in_flight(web.proxy, number)
        kill(web.proxy.pids()[0])
        eventually(lambda: web.requests(502) == 2, what="the POSTs of the dead backend are known to be lost")
        web.backends.open("gate")
        assert [client.answer().status for client in gets] == [200] * 6
        assert sorted(client.answer().status for client in posts) == [200] * 4 + [502] * 2
        assert (web.requests(502), web.retries()) == (2, 2)
        # Whose request was lost is still connected, and served.
        assert {client.ask("GET").status for client in clients} == {200}


def test_a_backend_that_dies_under_load_fails_no_get_and_posts_are_never_processed_twice(tmp_path: Path) -> None:
    answers: list[tuple[str, int]] = []  # appending is atomic, counting is not
    errors: list[str] = []
    stop = threading.Event()

    def run(number: int, port: int) -> None:
        method = "POST" if number % 2 else "GET"
        with Kept(port) as client:
            for identity in map(f"{method}-{number}-{{}}".format, itertools.count()):
                try:
                    answers.append((method, client.ask(method, f"/ids/{identity}").status))
                except (OSError, http.client.HTTPException) as error:
                    errors.append(f"{identity}: {error!r}")
                    return
                if stop.is_set():
                    return

    def kill_one(proxy: Proxy) -> None:
        loaded = len(answers) + 500
        eventually(lambda: len(answers) > loaded or errors, what="load")
        victim = eventually(lambda: proxy.pids()[0], what="the replica runs")
        kill(victim)
        eventually(lambda: victim not in proxy.pids(), what="it has been started again")

    with site(tmp_path, replicas=3, head="workers = 2\n") as web:
        threads = [threading.Thread(target=run, args=(number, web.port)) for number in range(12)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                kill_one(web.proxy)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        counted = web.requests(502)
    assert not errors
    seen = Counter(answers)
    assert {status for method, status in seen if method == "GET"} == {200}
    assert {status for method, status in seen if method == "POST"} <= {200, 502}
    assert counted == seen["POST", 502]
    posts = Counter(identity for identity in web.ids() if identity.startswith("POST"))
    assert set(posts.values()) == {1}
    assert seen["POST", 200] <= len(posts) <= seen["POST", 200] + seen["POST", 502]


def test_with_no_healthy_backend_requests_are_told_503_and_when_to_come_again(tmp_path: Path) -> None:
    port = free_port()
    config = service(port, keys='connect_timeout = "300ms"', v1=f'address = ["127.0.0.1:{free_port()}"]\n')
    with Proxy(tmp_path, config, wait=False) as proxy:
        eventually(proxy.socket.exists, what="the proxy runs")
        with eventually(lambda: _connected(port), what="it listens") as client:
            for method in ("GET", "POST"):
                answer = client.ask(method, body=b"x")
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) >= 1
        assert counter(proxy, "proxy_http_requests_total", code="503") == 2


def _connected(port: int) -> Kept | None:
    with contextlib.suppress(ConnectionRefusedError):
        return Kept(port)
    return None


def test_a_backend_that_breaks_before_it_answers_is_a_502_in_the_words_its_client_understands(web: Site) -> None:
    before = web.requests(502)
    curl = [need("curl", package="curl"), "-sS", "-w", "\n%{http_code} %{content_type}", "-d", "x"]
    url = f"http://127.0.0.1:{web.port}/break"
    for accept, kind in [
        ("*/*", "text/plain"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
    ]:
        done = subprocess.run([*curl, "-H", f"Accept: {accept}", url], capture_output=True, text=True, check=True)
        body, _, result = done.stdout.rpartition("\n")
        assert result.startswith(f"502 {kind}")
        assert "127.0.0.1" not in body, "clients learn nothing about backends"
        if kind == "application/json":
            assert json.loads(body)["error"]["code"] == "bad_gateway"
    assert web.requests(502) == before + 3


def test_a_client_keeps_its_connection_when_a_backend_breaks(web: Site) -> None:
    retries = web.retries()
    with Kept(web.port) as client:
        assert client.ask("GET").status == 200
        assert client.ask("POST", "/break", b"x").status == 502
        assert client.ask("POST", "/ids/after", b"x").text == "v1 1 after"
        assert client.ask("GET", "/break").status == 502
        assert web.retries() - retries <= 1, "once, not for ever"
        assert client.ask("GET").status == 200


def test_a_response_that_a_backend_cuts_is_not_taken_for_a_whole_one(web: Site) -> None:
    with Kept(web.port) as client:
        client.send("GET", "/truncate")
        with client.connection.getresponse() as response, pytest.raises((OSError, http.client.IncompleteRead)):
            response.read()


# ---- kept connections of backends


def test_a_backend_that_closes_its_idle_connection_does_not_close_the_clients(web: Site) -> None:
    with Kept(web.port) as client:
        for number in range(5):
            assert client.ask("GET", "/last").text == "v1 1"
            # The proxy has seen the end, so that a POST is no risk any more.
            eventually(lambda: web.proxy.active()["connections"] == 0, what="the stale connection is let go")
            assert client.ask("POST", f"/ids/last-{number}", b"x").text == f"v1 1 last-{number}"


def test_a_request_that_meets_a_stale_connection_is_sent_again_once_if_that_is_safe(web: Site) -> None:
    retries = web.retries()
    with Kept(web.port) as client:
        assert client.ask("GET", "/doomed").text == "v1 1"
        assert client.ask("GET", "/ids/get").text == "v1 1 get"
        assert web.retries() == retries + 1
        assert client.ask("GET", "/doomed").text == "v1 1"
        assert client.ask("PUT", "/ids/put", b"x" * 20_000).text == "v1 1 put"
        assert web.retries() == retries + 2


def test_a_post_that_meets_a_stale_connection_is_not_sent_twice(web: Site) -> None:
    def try_once() -> int:
        """Ask at once: after a second of silence a POST would get a fresh connection."""
        asked = time.monotonic()
        assert client.ask("GET", "/doomed").text == "v1 1"
        # All of it at once: who has not sent the whole request would be closed after the answer.
        client.write(b"POST /ids/doomed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        status = client.read("POST").status
        return status if time.monotonic() - asked < 0.9 else 0

    retries = web.retries()
    with Kept(web.port) as client:
        assert eventually(try_once, what="a POST in time") == 502
        assert client.ask("POST", "/ids/after-it", b"x").status == 200
    assert web.retries() == retries
    assert web.ids().count("after-it") == 1


def test_a_backend_that_says_close_is_honoured(web: Site) -> None:
    with Kept(web.port) as client:
        client.send("GET", "/close")
        answer = client.answer()
        assert answer.text == "v1 1"
        assert answer.headers["connection"] == "close"
        with pytest.raises((OSError, http.client.HTTPException)):
            client.ask("GET")


# ---- requests that are not served


HOSTILE = {
    "both lengths": b"POST /ids/hostile HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "two lengths": b"POST /ids/hostile HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "bare line feeds": b"GET /ids/hostile HTTP/1.1\nHost: a\n\n",
    "space before the colon": b"GET /ids/hostile HTTP/1.1\r\nHost : a\r\n\r\n",
    "folded line": b"GET /ids/hostile HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n 2\r\n\r\n",
    "chunked is not last": b"POST /ids/hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"
    b"0\r\n\r\n",
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_ambiguous_framing_is_told_400_and_no_backend_sees_it_or_what_comes_after_it(web: Site, hostile: bytes) -> None:
    answer = exchange(web.port, hostile + b"GET /ids/smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1
    with Kept(web.port) as client:
        assert client.ask("GET").status == 200, "others are served"
    assert not {"hostile", "smuggled"} & set(web.ids())


def test_a_head_that_is_too_long_is_told_431(web: Site) -> None:
    field = b"X-Long: " + b"x" * 8000 + b"\r\n"
    answer = exchange(web.port, b"GET / HTTP/1.1\r\nHost: a\r\n" + field * 9 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    # Python's own limit is 100 fields and 64 KiB for each line, so that less is no problem for anybody.
    assert exchange(web.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + field * 7 + b"\r\n").endswith(
        b"v1 1"
    )


def test_clients_that_send_their_head_byte_by_byte_are_told_408_while_others_are_served(tmp_path: Path) -> None:
    """As in the attack that sends one byte each second, but faster: five bytes, and a shorter time to send all."""
    _need_descriptors(3 * SLOW_HEADS)
    with site(tmp_path, http='header_timeout = "6s"\n' if FULL else 'header_timeout = "2s"\n') as web:
        with Kept(web.port) as client:
            assert client.ask("GET").status == 200
            before = sum(map(_memory, web.proxy.workers()))
            answers: Counter[bytes] = Counter()
            dribble = threading.Thread(target=lambda: answers.update(_dribble(web.port, SLOW_HEADS)))
            dribble.start()
            served = peak = 0
            while dribble.is_alive():
                assert client.ask("GET").status == 200
                served += 1
                dribble.join(0.05)
                peak = max(peak, sum(map(_memory, web.proxy.workers())))
            dribble.join()
        assert answers == {b"HTTP/1.1 408": SLOW_HEADS}
        assert web.requests(408) == SLOW_HEADS
        assert served > 10
        assert peak - before < SLOW_HEADS * 16_384 + (16 << 20)


def _dribble(port: int, count: int) -> Counter[bytes]:
    """So many clients that send a byte every 0.2 s each; returns how their answers begin, once all have ended."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000
    clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(count)]
    poll = select.epoll()
    answers: dict[int, bytes] = {client.fileno(): b"" for client in clients}
    open_ = {client.fileno(): client for client in clients}
    for client in clients:
        client.setblocking(False)
        poll.register(client, select.EPOLLIN)
    sent, next_byte, deadline = 0, 0.0, time.monotonic() + PATIENCE
    while open_ and time.monotonic() < deadline:
        if time.monotonic() >= next_byte:
            for client in open_.values():
                with contextlib.suppress(OSError):
                    client.send(head[sent : sent + 1])
            sent += 1
            next_byte = time.monotonic() + 0.2
        for descriptor, _ in poll.poll(0.05, 1000):
            try:
                data = open_[descriptor].recv(4096)
            except OSError as error:
                answers[descriptor] += f" {error}".encode()
                data = b""
            answers[descriptor] += data
            if not data:
                open_.pop(descriptor).close()
    poll.close()
    return Counter(answer[: len(b"HTTP/1.1 408")] for answer in answers.values())


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _need_descriptors(count: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        missing(f"{count} file descriptors are needed, {soft} allowed: ulimit -n {count}")


def test_a_client_that_is_silent_between_requests_is_not_told_408(tmp_path: Path) -> None:
    """The time for a head begins with its first byte."""
    with site(tmp_path, http='header_timeout = "200ms"\n') as web, Kept(web.port) as client, Kept(web.port) as slow:
        assert client.ask("GET").status == 200
        slow.write(b"GET / HT")
        assert slow.read().status == 408
        assert client.ask("GET").status == 200


# ---- pause and stop


def test_requests_on_kept_connections_wait_while_the_service_is_paused(tmp_path: Path) -> None:
    with site(tmp_path, keys='connect_timeout = "300ms"') as web, Kept(web.port) as client, Kept(web.port) as other:
        assert client.ask("GET").text == "v1 1"
        other.send("GET", "/held/gate")
        wait_in_flight(web.proxy, 1)
        web.proxy.ok("pause")
        client.send("POST", "/ids/1", b"x")
        web.backends.open("gate")
        assert other.answer().text == "v1 1 begins\nv1 1 ends\n", "what was under way goes on"
        # Longer than connect_timeout: a pause is no failure.
        assert not select.select([client.connection.sock], [], [], 0.6)[0]
        assert web.ids() == []
        web.proxy.operate("swap", version="v2")
        web.proxy.ok("resume")
        assert client.answer().text == "v2 2 1"
        assert web.ids() == ["1"]


def test_a_stop_ends_idle_connections_soon_and_lets_responses_end_with_the_word_that_it_is_the_last(
    tmp_path: Path,
) -> None:
    with site(tmp_path) as web, Kept(web.port) as idle, Kept(web.port) as waiting, Kept(web.port) as fresh:
        assert idle.ask("GET").status == 200
        waiting.send("GET", "/silent/gate")
        wait_in_flight(web.proxy, 1)
        stop = web.proxy.popen("stop")
        assert idle.connection.sock.recv(1) == b"", "an ordinary end"
        assert fresh.connection.sock.recv(1) == b""
        assert stop.poll() is None
        web.backends.open("gate")
        answer = waiting.answer()
        assert answer.text == "v1 1"
        assert answer.headers["connection"] == "close"
        output, error = stop.communicate(timeout=PATIENCE)
        assert stop.returncode == 0, output + error
        assert web.proxy.process
        assert web.proxy.process.wait(PATIENCE) == 0
