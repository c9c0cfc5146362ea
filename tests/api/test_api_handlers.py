"""Each endpoint of the contract, over the real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.core.requests import SwapRequest
from proxy.errors import ConfigError, Problem, StartError, StoppingError, SwapInProgressError, UpgradeInProgressError
from tests.fakes import STATUS

if TYPE_CHECKING:
    from proxy.errors import ProxyError
    from tests.ask import Api
    from tests.fakes import FakeControl


async def test_status_is_the_contracts_object(api: Api) -> None:
    answer = await api.get("/v1/status")
    assert (answer.status, answer.json) == (200, STATUS)
    assert answer.headers["content-type"] == "application/json"


async def test_one_service_can_be_asked_for(api: Api) -> None:
    assert (await api.get("/v1/services/web")).json == STATUS["services"]["web"]
    unknown = await api.get("/v1/services/wbe")
    assert unknown.status == 404
    assert unknown.error == {"code": "unknown_service", "message": "there is no service wbe", "hint": "there is web"}


async def test_an_accepted_swap_says_what_has_begun(api: Api, control: FakeControl) -> None:
    control.ending = None
    body = {"version": "v2", "deadline": "1m30s", "command": "./app --name 'a b'"}
    answer = await api.post("/v1/services/web/swap", body)
    assert answer.status == 202
    assert (answer.json["id"], answer.json["to"], answer.json["kind"]) == (1, "v2", "swap")
    assert control.calls == [("swap", "web", SwapRequest("v2", 90.0, ("./app", "--name", "a b")))]


async def test_a_swap_that_is_waited_for_answers_with_its_result(api: Api, control: FakeControl) -> None:
    control.ending = {"result": "failed", "error": "exited with status 1"}
    answer = await api.post("/v1/services/web/swap", {"version": "v2", "wait": True})
    assert (answer.status, answer.json["result"], answer.json["error"]) == (200, "failed", "exited with status 1")


@pytest.mark.parametrize("verb", ["rollback", "restart"])
async def test_rollback_and_restart_are_operations_too(api: Api, control: FakeControl, verb: str) -> None:
    control.ending = None
    answer = await api.post(f"/v1/services/web/{verb}", {"deadline": 2.5})
    assert (answer.status, answer.json["kind"]) == (202, verb)
    assert control.calls == [(verb, "web", 2.5)]
    control.ending = {}
    waited = await api.post(f"/v1/services/web/{verb}", {"wait": True})
    assert (waited.status, waited.json["result"]) == (200, "swapped")
    assert control.calls[1] == (verb, "web", None)


async def test_pause_and_resume_answer_with_the_service(api: Api) -> None:
    assert (await api.post("/v1/services/web/pause")).json["state"] == "paused"
    assert (await api.post("/v1/services/web/resume")).json["state"] == "serving"
    assert (await api.post("/v1/services/nope/pause")).status == 404


async def test_a_conflict_answers_409_with_its_hint(api: Api) -> None:
    answer = await api.post("/v1/services/web/swap", {"version": "busy"})
    assert (answer.status, answer.error["code"], answer.error["hint"]) == (409, "swap_in_progress", "wait for it")


async def test_reload_tells_what_changed_and_what_is_wrong(api: Api, control: FakeControl) -> None:
    changed = await api.post("/v1/reload")
    assert (changed.status, set(changed.json)) == (200, {"changes", "warnings"})
    problem = Problem("proxy.toml", 3, 1, "services.web.listn", "unknown key", "did you mean listen?")
    control.problem = ConfigError([problem])
    wrong = await api.post("/v1/reload")
    assert (wrong.status, wrong.error["code"]) == (422, "config")
    assert wrong.error["problems"] == [
        {
            "file": "proxy.toml",
            "line": 3,
            "column": 1,
            "key": "services.web.listn",
            "message": "unknown key",
            "hint": "did you mean listen?",
        }
    ]


@pytest.mark.parametrize(("body", "now"), [(None, False), ({}, False), ({"now": True}, True)])
async def test_stop_is_accepted_at_once(api: Api, control: FakeControl, body: Any, now: bool) -> None:
    answer = await api.post("/v1/stop", body)
    assert answer.status == 202
    assert answer.json["now"] is now
    assert control.calls == [("stop", now)]


async def test_an_upgrade_that_is_accepted_says_what_has_begun(api: Api, control: FakeControl) -> None:
    control.ending = None
    answer = await api.post("/v1/upgrade")
    assert (answer.status, answer.json) == (202, control.upgrading)
    assert (await api.get("/v1/status")).json["proxy"]["upgrade"]["phase"] == "check"


@pytest.mark.parametrize("error", [UpgradeInProgressError, SwapInProgressError])
async def test_an_upgrade_that_cannot_begin_now_is_a_conflict(
    api: Api, control: FakeControl, error: type[ProxyError]
) -> None:
    control.problem = error("it is under way", hint="wait for it")
    answer = await api.post("/v1/upgrade")
    assert (answer.status, answer.error["code"], answer.error["hint"]) == (409, error.code, "wait for it")
    assert (await api.post("/v1/upgrade", {"now": True})).status == 400


async def test_history_is_filtered_and_limited(api: Api, control: FakeControl) -> None:
    control.entries = [{"service": "web", "to": "v2"}, {"service": "db", "to": "p2"}, {"service": "web", "to": "v3"}]
    assert [entry["to"] for entry in (await api.get("/v1/history")).json["history"]] == ["v2", "p2", "v3"]
    assert [entry["to"] for entry in (await api.get("/v1/history?service=web&limit=1")).json["history"]] == ["v3"]
    control.done = [{"action": "pause", "service": "web"}, {"action": "reload", "service": None}]
    assert [each["action"] for each in (await api.get("/v1/history?limit=1")).json["actions"]] == ["reload"]
    assert (await api.get("/v1/history?limit=0")).json == {"history": [], "actions": []}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "openmetrics"),
        ("text/plain, application/openmetrics-text;q=0", "text/plain"),
        ("*/*", "text/plain"),
    ],
)
async def test_prometheus_gets_the_format_it_asks_for(api: Api, accept: str, kind: str) -> None:
    answer = await api.get("/metrics", accept=accept)
    assert (answer.status, answer.body) == (200, b"proxy_build_info 1\n")
    assert kind in answer.headers["content-type"]


async def test_health_endpoints_say_why_not(api: Api, control: FakeControl) -> None:
    assert ((await api.get("/livez")).status, (await api.get("/livez")).body) == (200, b"ok\n")
    assert (await api.get("/readyz")).status == 200
    control.reasons = ["web: no healthy active generation (v1)", "the proxy is stopping"]
    answer = await api.get("/readyz")
    assert (answer.status, answer.body.decode().splitlines()) == (503, control.reasons)
    assert (await api.get("/livez")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/status/", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/status", 405, "method_not_allowed"),
        ("GET", "/v1/services/web/swap", 405, "method_not_allowed"),
        ("DELETE", "/v1/services/web", 405, "method_not_allowed"),
    ],
)
async def test_wrong_paths_and_methods_have_the_error_form_too(
    api: Api, method: str, path: str, status: int, code: str
) -> None:
    answer = await api._ask(method, path, {})
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["message"]
    assert answer.error["hint"]
    if status == 405:
        assert answer.headers["allow"]


async def test_a_bug_is_answered_and_logged_and_the_server_goes_on(
    api: Api, control: FakeControl, caplog: pytest.LogCaptureFixture
) -> None:
    control.problem = ZeroDivisionError("a bug")
    answer = await api.get("/v1/status")
    assert (answer.status, answer.error["code"]) == (500, "internal")
    assert "ZeroDivisionError" in answer.error["message"]
    assert "ZeroDivisionError: a bug" in caplog.text
    control.problem = ExceptionGroup("several", [ZeroDivisionError("another")])
    assert (await api.get("/v1/status")).status == 500
    control.problem = None
    assert (await api.get("/v1/status")).status == 200


async def test_errors_of_a_start_carry_the_backends_last_lines(api: Api, control: FakeControl) -> None:
    control.problem = StartError("exited with status 1", output=("Traceback", "KeyError: 'PORT'"))
    answer = await api.get("/v1/status")
    assert (answer.status, answer.error["output"]) == (500, ["Traceback", "KeyError: 'PORT'"])
    control.problem = StoppingError("the proxy is stopping")
    assert (await api.get("/v1/status")).status == 503


async def test_head_is_get_without_a_body(api: Api) -> None:
    answer = await api._ask("HEAD", "/readyz", {})
    assert (answer.status, answer.body) == (200, b"")


async def test_one_connection_carries_many_requests(api: Api) -> None:
    async with await api.connect() as stream:
        for _ in range(3):
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(5):
                received = b""
                while not received.endswith(b"ok\n"):
                    received += bytes(await stream.receive_some())
