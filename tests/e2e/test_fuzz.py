"""Whatever is sent to the API: an answer in the error form, and nothing changes."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import configs
from tests.e2e.harness import PATIENCE, Proxy, fetch, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

POSTS = [f"/v1/services/web/{verb}" for verb in ("swap", "rollback", "restart", "pause", "resume")]
POSTS += ["/v1/reload", "/v1/stop", "/v1/upgrade", "/v1/services/none/swap"]
FIELDS = ["version", "deadline", "command", "wait", "now", "versions", "", "__class__"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), json_values, min_size=1, max_size=4)
bodies = objects.map(json.dumps).map(str.encode) | json_values.map(json.dumps).map(str.encode) | st.binary(max_size=80)

words = ["v1", "services", "web", "status", "..", "%2e%2e", "logs", "versions", "\u00e9", "%00", "%ff", "*"]
ascii_text = st.text(st.characters(codec="ascii", exclude_categories=("Cc", "Zs")), max_size=8)
paths = st.lists(st.sampled_from(words) | ascii_text, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("fuzz"), configs.service(free_port())) as proxy:
        yield proxy


def _is_valid(path: str, body: bytes) -> bool:
    """Whether this would be carried out: the fuzz is after what is not."""
    try:
        fields = json.loads(body) if body.strip() else {}
    except ValueError:
        return False
    if not isinstance(fields, dict):
        return False
    known = {"stop": {"now"}, "rollback": {"wait", "deadline"}, "restart": {"wait", "deadline"}}
    return set(fields) <= known.get(path.rpartition("/")[2], set())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(POSTS), body=bodies)
def test_a_fuzzed_body_gets_a_4xx_in_the_error_form_and_changes_nothing(proxy: Proxy, path: str, body: bytes) -> None:
    if _is_valid(path, body):
        return
    before = _state(proxy)
    status, content = _send(proxy, b"POST", path.encode(), body)
    assert 400 <= status < 500 or (status == 501 and path.endswith("upgrade")), (status, content)
    _assert_error_form(content)
    assert _state(proxy) == before


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"]), path=paths)
def test_a_fuzzed_path_gets_an_answer_and_changes_nothing(proxy: Proxy, method: bytes, path: list[str]) -> None:
    target = b"/" + "/".join(path).replace(" ", "").encode()
    before = _state(proxy)
    status, content = _send(proxy, method, target, b"")
    if status >= 400:
        assert status < 500, (status, content)
        if content and b"<" not in content[:1] and content.startswith(b"{"):
            _assert_error_form(content)
    assert _state(proxy) == before


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=200))
def test_garbage_instead_of_http_does_not_stop_the_api(proxy: Proxy, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(proxy.socket))
        connection.sendall(garbage + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert proxy.request("GET", "/livez")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {"version": "v2", "deadline": -1},
        {"version": "v2", "deadline": "soon"},
        {"version": "v2", "deadline": 1e400},
        {"version": ["v2"]},
        {"version": "v2", "wait": "maybe"},
        {"version": "v2", "command": []},
        {"version": "v8", "command": "'unfinished"},
        {"version": "v8", "command": ["a\0b"]},
        {"version": "v8", "command": "app {prot}"},
        {"version": "../../etc", "command": "true"},
        {"version": "v2", "force": True},
        {"version": "v" * 70_000},
        {},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_a_body_that_is_nearly_right_is_refused_with_what_is_wrong(proxy: Proxy, body: dict[str, Any]) -> None:
    before = _state(proxy)
    status, content = _send(proxy, b"POST", b"/v1/services/web/swap", json.dumps(body).encode())
    assert 400 <= status < 500, content
    assert _assert_error_form(content)["message"]
    assert _state(proxy) == before


def _assert_error_form(content: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(content)["error"]
    assert {"code", "message", "hint"} <= set(error)
    assert all(isinstance(error[key], str) for key in ("code", "message", "hint"))
    assert error["code"] not in ("internal", "")
    return error


def _state(proxy: Proxy) -> dict[str, Any]:
    status = proxy.status()
    service: dict[str, Any] = status["services"]["web"]
    assert not status["proxy"]["stopping"]
    assert fetch(int(service["listen"][0].rpartition(":")[2])).startswith("v1 1 ")
    for generation in service["generations"]:
        generation.pop("connections")
    return service


def _send(proxy: Proxy, method: bytes, target: bytes, body: bytes) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(proxy.socket))
        head = b"%s %s HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (method, target, len(body))
        connection.sendall(head + body)
        received = connection.makefile("rb")
        with received:
            status = int(received.readline().split()[1])
            while received.readline().strip():
                pass
            # An event stream goes on for ever: its head is enough.
            return status, b"" if b"/events" in target and status == 200 else received.read()
