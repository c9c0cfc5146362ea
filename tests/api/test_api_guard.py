"""A page in a browser must not be able to change anything, or read what only the owner may know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.guard import refuse

if TYPE_CHECKING:
    from tests.ask import Api
    from tests.fakes import FakeControl

HOST = {"host": "127.0.0.1:9900"}
JSON = {**HOST, "content-type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        {**JSON, "host": "localhost"},
        {**JSON, "host": "LOCALHOST:9900"},
        {**JSON, "host": "[::1]:9900"},
        {**JSON, "content-type": "Application/JSON; charset=utf-8"},
        {**JSON, "origin": "http://127.0.0.1:9900", "sec-fetch-site": "same-origin"},
        {**JSON, "sec-fetch-site": "none"},
    ],
)
def test_scripts_and_the_proxys_own_pages_may_change_things(headers: dict[str, str]) -> None:
    assert refuse("POST", "/v1/stop", headers) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**JSON, "host": "evil.example"}, 403),
        ({**JSON, "host": "evil.example:9900"}, 403),
        ({**JSON, "host": "127.0.0.1.evil.example"}, 403),
        ({**JSON, "host": "localhost.evil.example"}, 403),
        ({**JSON, "host": "10.0.0.1:9900"}, 403),
        ({**JSON, "host": "evil@127.0.0.1.nip.io"}, 403),
        ({**JSON, "host": "[::1"}, 403),
        ({**JSON, "host": ""}, 403),
        ({"content-type": "application/json"}, 403),
        ({**JSON, "origin": "http://evil.example"}, 403),
        ({**JSON, "origin": "http://127.0.0.1:8000"}, 403),
        ({**JSON, "origin": "null"}, 403),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**JSON, "sec-fetch-site": "same-site"}, 403),
        (HOST, 415),
        ({**HOST, "content-type": "text/plain"}, 415),
        ({**HOST, "content-type": "application/x-www-form-urlencoded"}, 415),
        ({**HOST, "content-type": "text/plain; application/json"}, 415),
    ],
)
def test_what_a_foreign_page_can_make_a_browser_send_is_refused(headers: dict[str, str], status: int) -> None:
    refusal = refuse("POST", "/v1/services/web/swap", headers)
    assert refusal is not None
    assert refusal.status == status


@given(st.text(), st.sampled_from(["GET", "POST"]))
def test_any_host_gets_an_answer_and_only_loopback_gets_in(host: str, method: str) -> None:
    refusal = refuse(method, "/v1/status", {**JSON, "host": host})
    assert refusal is None or refusal.status == 403


def test_reading_needs_a_name_of_this_machine_but_metrics_do_not() -> None:
    rebound = {"host": "evil.example"}
    for path in ("/v1/status", "/v1/events", "/v1/services/web/versions/v1/logs"):
        assert refuse("GET", path, rebound) is not None
        assert refuse("GET", path, HOST) is None
    for path in ("/metrics", "/livez", "/readyz"):
        assert refuse("GET", path, rebound) is None


async def test_the_guard_stands_on_tcp_and_not_on_the_socket(api: Api, control: FakeControl) -> None:
    refused = await api.over_tcp().post("/v1/stop")
    assert (refused.status, refused.error["code"]) == (415, "content_type")
    assert (await api.over_tcp().post("/v1/stop", host="evil.example")).status == 403
    assert control.calls == []
    assert (await api.over_tcp().post("/v1/stop", content_type="application/json")).status == 202
    assert (await api.post("/v1/stop")).status == 202


async def test_no_answer_ever_allows_another_origin(api: Api) -> None:
    tcp = api.over_tcp()
    preflight = await tcp._ask(
        "OPTIONS", "/v1/stop", {"origin": "http://evil.example", "access-control-request-method": "POST"}
    )
    read = await tcp.get("/v1/status", origin="http://evil.example")
    assert preflight.status == 405
    for answer in (preflight, read):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_command_over_tcp_is_refused_because_anybody_could_send_it(api: Api, control: FakeControl) -> None:
    body = {"version": "v2", "command": "./app"}
    refused = await api.over_tcp().post("/v1/services/web/swap", body, content_type="application/json")
    assert (refused.status, refused.error["code"]) == (403, "forbidden")
    assert control.calls == []
    swapped = await api.over_tcp().post("/v1/services/web/swap", {"version": "v2"}, content_type="application/json")
    assert swapped.status == 202
