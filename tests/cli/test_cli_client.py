"""The way to a running proxy, and what is said when there is none, or none that answers."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from proxy.cli import client
from proxy.cli.client import Client, path_of
from proxy.cli.where import Where
from proxy.errors import (
    ConfigError,
    NotRunningError,
    Problem,
    ProxyError,
    StartError,
    SwapInProgressError,
    UnknownServiceError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FakeProxy


def to(path: Path) -> Client:
    return Client(Where(path, "--socket"))


@pytest.fixture
def talk(proxy: FakeProxy) -> Client:
    return to(proxy.socket)


def answering(path: Path, content: bytes) -> threading.Thread:
    """Something that takes one connection, says `content` and hangs up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        with listener:
            stream, _ = listener.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(content)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_answers_are_the_apis(talk: Client, proxy: FakeProxy) -> None:
    assert talk.get("/v1/status") == proxy.control.state
    assert talk.post(path_of("services", "web", "pause"))["state"] == "paused"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnknownServiceError("there is no wbe", hint="there is web"), UnknownServiceError),
        (SwapInProgressError("busy"), SwapInProgressError),
        (StartError("exited with status 1", output=("Traceback", "KeyError")), StartError),
        (ConfigError([Problem("proxy.toml", 1, 2, "services", "wrong", "right")]), ConfigError),
        (ProxyError("something", hint="else"), ProxyError),
    ],
)
def test_an_error_arrives_as_it_was_raised(
    error: ProxyError, kind: type[ProxyError], talk: Client, proxy: FakeProxy
) -> None:
    proxy.control.problem = error
    with pytest.raises(kind) as raised:
        talk.get("/v1/status")
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.hint) == (error.message, error.hint)
    assert getattr(raised.value, "output", None) == getattr(error, "output", None)
    assert getattr(raised.value, "problems", None) == getattr(error, "problems", None)


def test_a_request_that_the_api_refuses_is_wrong_usage(talk: Client) -> None:
    with pytest.raises(UsageError, match="is not a duration") as raised:
        talk.post(path_of("services", "web", "swap"), {"version": "v2", "deadline": "soon"})
    assert raised.value.exit_code == 2


def test_the_only_service_need_not_be_named(talk: Client, proxy: FakeProxy) -> None:
    assert talk.service(None) == "web"
    proxy.control.state["services"]["db"] = proxy.control.state["services"]["web"]
    assert talk.service("db") == "db"
    with pytest.raises(UsageError, match="several services: web, db"):
        talk.service(None)


def test_the_process_behind_the_socket_is_known(talk: Client) -> None:
    assert talk.pid() == os.getpid()


def test_a_dead_proxys_socket_is_no_proxy(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with pytest.raises(NotRunningError, match="no proxy answers on"):
        to(tmp_path / "dead.sock").get("/v1/status")


def test_no_permission_is_not_taken_for_not_running(tmp_path: Path) -> None:
    error = client._not_running(Where(tmp_path / "x" / "y.sock", "--socket"), PermissionError(errno.EACCES, "denied"))
    assert error.message.startswith("permission denied on the control socket")
    assert "it belongs to root" in error.hint
    assert error.exit_code == 3


def test_a_path_of_any_length_works(proxy: FakeProxy, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["x" * 50] * 4)
    folder.mkdir(parents=True)
    (folder / "link.sock").symlink_to(proxy.socket)
    assert to(folder / "link.sock").get("/v1/status")


def test_a_proxy_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        with pytest.raises(NotRunningError, match="did not answer within"):
            to(tmp_path / "silent.sock").within(0.05).get("/v1/status")


@pytest.mark.parametrize("content", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", b"SSH-2.0-OpenSSH\r\n"])
def test_an_answer_that_is_cut_off_or_is_none_says_so(tmp_path: Path, content: bytes) -> None:
    thread = answering(tmp_path / "odd.sock", content)
    with pytest.raises(NotRunningError, match="went away before it had answered"):
        to(tmp_path / "odd.sock").get("/v1/status")
    thread.join()


def test_an_error_of_another_server_is_shown_as_it_is(tmp_path: Path) -> None:
    thread = answering(tmp_path / "odd.sock", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops")
    with pytest.raises(ProxyError, match="status 502") as raised:
        to(tmp_path / "odd.sock").get("/v1/status")
    assert raised.value.hint == "oops"
    thread.join()


def test_a_server_that_is_no_proxy_is_said_to_be_none(tmp_path: Path) -> None:
    thread = answering(tmp_path / "odd.sock", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
    with pytest.raises(ProxyError, match="not a proxyctl proxy"):
        to(tmp_path / "odd.sock").get("/v1/status")
    thread.join()


def test_a_cut_long_answer_is_not_taken_for_all_of_it(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    thread = answering(tmp_path / "odd.sock", head + b"5\r\nhello\r\n")
    received = []
    with pytest.raises(NotRunningError):
        received.extend(to(tmp_path / "odd.sock").pieces("/v1/x"))
    thread.join()


def test_names_are_quoted_in_paths() -> None:
    assert (
        path_of("services", "a b", "versions", "feature/x?", "logs")
        == "/v1/services/a%20b/versions/feature%2Fx%3F/logs"
    )
