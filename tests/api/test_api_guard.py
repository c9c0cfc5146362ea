"""Who may do what over TCP: each way to ask that is not allowed is refused, and nothing has changed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import trio

from proxy.api import session, slowdown
from proxy.api.slowdown import FIRST, WAITING
from proxy.config.tokens import Tokens
from proxy.core.caller import Caller

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ask import Answer, Api
    from tests.fakes import FakeControl

TOKENS = Tokens("act-" + "a" * 28, "read-" + "r" * 27)
JSON = {"content_type": "application/json"}
ACT, READ = ({"authorization": f"Bearer {token}"} for token in (TOKENS.act, TOKENS.read))
WRONG = {"authorization": "Bearer " + "x" * 32}
FOREIGN = {"origin": "http://evil.example"}
ACTIONS = [
    "/v1/services/web/swap",
    "/v1/services/web/rollback",
    "/v1/services/web/restart",
    "/v1/services/web/pause",
    "/v1/services/web/resume",
    "/v1/reload",
    "/v1/upgrade",
    "/v1/stop",
]
READS = [
    "/v1/status",
    "/v1/services/web",
    "/v1/events",
    "/v1/history",
    "/v1/services/web/versions/v1/logs",
    "/v1/access",
    "/v1/openapi.json",
]


@pytest.fixture
def own(api: Api) -> dict[str, str]:
    """What the page's own requests say of where they come from."""
    return {"host": f"127.0.0.1:{api.port}", "origin": f"http://127.0.0.1:{api.port}", "sec_fetch_site": "same-origin"}


class TestLoopbackWithoutTokens:
    async def test_everybody_on_this_machine_may_act_and_is_written_down(
        self, api: Api, control: FakeControl, own: dict[str, str]
    ) -> None:
        tcp = api.over_tcp()
        for who in ({}, own):
            answer = await tcp.post("/v1/services/web/swap", {"version": "v2"}, **JSON, **who)
            assert answer.status == 202
        assert [(each.via, each.right) for each in control.callers] == [("tcp", "loopback")] * 2
        assert control.callers[0].place.startswith("127.0.0.1:")
        access = await tcp.get("/v1/access")
        assert access.json == {"role": "act", "right": "loopback", "commands": False}

    @pytest.mark.parametrize("target", ACTIONS)
    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({**JSON, "host": "evil.example"}, 403),
            ({**JSON, "host": "evil@127.0.0.1"}, 403),
            ({**JSON, **FOREIGN}, 403),
            ({**JSON, "origin": "null"}, 403),
            ({**JSON, "origin": "http://127.0.0.1:1"}, 403),
            ({**JSON, "sec_fetch_site": "cross-site"}, 403),
            ({**JSON, "sec_fetch_site": "same-site"}, 403),
            ({}, 415),
            ({"content_type": "text/plain"}, 415),
            ({"content_type": "application/x-www-form-urlencoded"}, 415),
            ({"content_type": "multipart/form-data; boundary=x"}, 415),
            # Names that some servers take instead of those that count.
            ({**FOREIGN, **JSON, "x_forwarded_host": "127.0.0.1", "x_original_host": "127.0.0.1"}, 403),
            ({**JSON, "host": "evil.example", "x_forwarded_host": "127.0.0.1", "forwarded": "host=127.0.0.1"}, 403),
        ],
    )
    async def test_what_a_page_elsewhere_can_make_a_browser_send_changes_nothing(
        self, api: Api, control: FakeControl, target: str, fields: dict[str, str], status: int
    ) -> None:
        answer = await api.over_tcp().post(target, {"version": "v2"} if target.endswith("swap") else None, **fields)
        assert answer.status == status, answer.body
        assert (control.calls, control.callers) == ([], [])

    @pytest.mark.parametrize("target", [*READS, "/", "/login"])
    async def test_a_page_elsewhere_learns_nothing(self, api: Api, target: str) -> None:
        assert (await api.over_tcp().get(target, host="evil.example")).status == 403
        if target in READS:
            assert (await api.over_tcp().get(target, **FOREIGN)).status == 403
            assert (await api.over_tcp().get(target, sec_fetch_site="cross-site")).status == 403

    async def test_a_link_to_the_page_leads_there(self, api: Api) -> None:
        answer = await api.over_tcp().get("/", sec_fetch_site="cross-site")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")

    @pytest.mark.parametrize("target", ["/metrics", "/livez", "/readyz"])
    async def test_scrapers_and_balancers_know_this_machine_by_any_name(self, api: Api, target: str) -> None:
        assert (await api.over_tcp().get(target, host="proxy-7.internal:9900")).status == 200
        assert (await api.over_tcp().post(target, **JSON)).status == 405

    @pytest.mark.parametrize(
        "target",
        [
            "//v1/stop",
            "/v1//stop",
            "/v1/./stop",
            "/v1/../v1/stop",
            "/v1/stop/",
            "/V1/stop",
            "/livez/../v1/stop",
            "/metrics/v1/stop",
            "/page/../v1/stop",
            "/%761/stop/",
            "/v1/stop%2f",
            "/v1/stop;x",
            "/login/../v1/stop",
        ],
    )
    async def test_no_other_spelling_of_a_path_gets_past_the_guard(
        self, api: Api, control: FakeControl, target: str
    ) -> None:
        for fields in (FOREIGN, {"host": "evil.example"}, {"content_type": "text/plain"}):
            answer = await api.over_tcp().post(target, **fields)
            assert answer.status in {403, 415}, answer.body
        assert (await api.over_tcp().post(target, **JSON)).status == 404
        assert control.calls == []

    @pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
    async def test_a_get_stays_a_get(self, api: Api, control: FakeControl, name: str) -> None:
        answer = await api.over_tcp()._ask("GET", "/v1/stop?_method=POST", {name: "POST"})
        assert answer.status == 405
        assert control.calls == []

    @pytest.mark.parametrize(
        "head",
        [
            b"POST /v1/stop HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n",
            b"POST /v1/stop HTTP/1.1\r\n",
            b"POST /v1/stop HTTP/1.0\r\n",
            b"POST http://evil.example/v1/stop HTTP/1.1\r\nHost: evil.example\r\n",
            b"POST /v1/stop HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nOrigin: http://evil.example\r\n",
            b"POST /v1/stop HTTP/1.1\r\nHost : 127.0.0.1\r\n",
        ],
    )
    async def test_a_head_that_can_be_read_in_two_ways_is_read_in_none(
        self, api: Api, control: FakeControl, head: bytes
    ) -> None:
        async with await api.over_tcp().connect() as stream:
            await stream.send_all(head + b"Content-Type: application/json\r\nConnection: close\r\n\r\n")
            with trio.fail_after(5):
                answer = bytes(await stream.receive_some())
        assert answer[:9] in {b"HTTP/1.1 ", b""}
        assert answer[9:10] in {b"4", b""}
        assert control.calls == []

    async def test_a_websocket_from_anywhere_is_refused(self, api: Api) -> None:
        head = b"GET /v1/events HTTP/1.1\r\nHost: evil.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        head += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        async with await api.over_tcp().connect() as stream:
            await stream.send_all(head)
            with trio.fail_after(5):
                assert b" 403 " in bytes(await stream.receive_some()).partition(b"\r\n")[0]

    async def test_no_answer_ever_allows_another_origin(self, api: Api) -> None:
        tcp = api.over_tcp()
        preflight = await tcp._ask("OPTIONS", "/v1/stop", {**FOREIGN, "access-control-request-method": "POST"})
        read = await tcp.get("/v1/status", **FOREIGN)
        assert preflight.status == 403
        for answer in (preflight, read):
            assert not [name for name in answer.headers if name.startswith("access-control")]

    @pytest.mark.parametrize("target", ["/", "/v1/status", "/v1/nothing", "/metrics", "/login", "/page/style.css"])
    async def test_every_answer_tells_the_browser_to_be_careful(self, api: Api, target: str) -> None:
        answer = await api.over_tcp().get(target)
        policy = answer.headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] in {"no-store", "no-cache"}

    async def test_the_control_socket_needs_none_of_this(self, api: Api, control: FakeControl) -> None:
        assert (await api.post("/v1/stop", host="evil.example", **FOREIGN)).status == 202
        (caller,) = control.callers
        assert (caller.via, caller.right) == ("socket", "root")
        assert caller.place.startswith("pid ")
        assert (await api.get("/v1/access")).json == {"role": "act", "right": "socket", "commands": True}
        assert (await api.get("/")).status == 404

    async def test_a_command_is_only_taken_where_the_mode_of_a_file_says_who_may(
        self, api: Api, control: FakeControl
    ) -> None:
        body = {"version": "v2", "command": "./app"}
        refused = await api.over_tcp().post("/v1/services/web/swap", body, **JSON)
        assert (refused.status, refused.error["code"]) == (403, "forbidden")
        assert "allow_commands" in refused.error["hint"]
        assert control.calls == []
        assert (await api.over_tcp().post("/v1/services/web/swap", {"version": "v2"}, **JSON)).status == 202
        assert (await api.post("/v1/services/web/swap", body)).status == 202

    async def test_there_is_nothing_to_sign_in_to(self, api: Api) -> None:
        for answer in (await api.over_tcp().get("/login"), await _sign_in(api, "anything")):
            assert (answer.status, answer.headers["location"]) == (303, "/")
            assert "set-cookie" not in answer.headers


class TestCommandsAllowed:
    @pytest.fixture
    def admin_keys(self) -> dict[str, Any]:
        return {"allow_commands": True}

    async def test_a_command_is_taken_where_the_config_says_so(self, api: Api, control: FakeControl) -> None:
        body = {"version": "v2", "command": "./app"}
        assert (await api.over_tcp().post("/v1/services/web/swap", body, **JSON)).status == 202
        assert (await api.over_tcp().get("/v1/access")).json["commands"] is True


class TestTokens:
    @pytest.fixture
    def admin_keys(self, tmp_path: Path) -> dict[str, Any]:
        path = tmp_path / "tokens"
        path.touch(mode=0o600)
        path.write_text(f"{TOKENS.act}\n{TOKENS.read}\n")
        return {"token_file": path}

    async def test_the_token_for_acting_reads_and_acts(self, api: Api, control: FakeControl) -> None:
        tcp = api.over_tcp()
        assert (await tcp.get("/v1/status", **ACT)).status == 200
        assert (await tcp.post("/v1/stop", **JSON, **ACT)).status == 202
        assert [(each.via, each.right) for each in control.callers] == [("tcp", "token")]
        assert (await tcp.get("/v1/access", **ACT)).json["role"] == "act"
        assert (await tcp.get("/v1/status", authorization=f"bearer  {TOKENS.act}")).status == 200

    @pytest.mark.parametrize("target", ACTIONS)
    async def test_the_token_for_reading_changes_nothing(self, api: Api, control: FakeControl, target: str) -> None:
        answer = await api.over_tcp().post(
            target, {"version": "v2"} if target.endswith("swap") else None, **JSON, **READ
        )
        assert (answer.status, answer.error["code"]) == (403, "read_only")
        assert (control.calls, control.callers) == ([], [])
        assert (await api.over_tcp().get("/v1/access", **READ)).json["role"] == "read"

    @pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
    async def test_health_is_open_and_metrics_are_as_configured(self, api: Api, target: str) -> None:
        assert (await api.over_tcp().get(target)).status == 200

    @pytest.mark.parametrize("target", [*ACTIONS, *READS])
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"authorization": "Basic YTpi"},
            {"authorization": TOKENS.act},
            {"authorization": f"Token {TOKENS.act}"},
            {"cookie": f"proxyctl={TOKENS.act}"},
            {"x_api_key": TOKENS.act},
        ],
    )
    async def test_without_a_token_nothing_is_told_and_nothing_changes(
        self, api: Api, control: FakeControl, target: str, fields: dict[str, str]
    ) -> None:
        method = "POST" if target in ACTIONS else "GET"
        names = {name.replace("_", "-"): value for name, value in {**JSON, **fields}.items()}
        answer = await api.over_tcp()._ask(method, target, names)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="proxyctl"'
        assert (control.calls, control.callers) == ([], [])

    async def test_a_wrong_token_is_answered_late_and_never_right(
        self, api: Api, control: FakeControl, autojump_clock: trio.testing.MockClock
    ) -> None:
        for wrong in ("x", TOKENS.act[:-1], TOKENS.act + "x", TOKENS.act.upper()):
            began = trio.current_time()
            answer = await api.over_tcp().post("/v1/stop", authorization=f"Bearer {wrong}", **JSON)
            assert answer.status == 401
            assert trio.current_time() - began >= FIRST
        assert control.calls == []
        assert (await api.over_tcp().get("/v1/status", **ACT)).status == 200

    async def test_guesses_side_by_side_are_turned_away(
        self, api: Api, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers: list[Answer] = []

        async def guess() -> None:
            answers.append(await api.over_tcp().get("/v1/status", **WRONG))

        async with trio.open_nursery() as guessing:
            for _ in range(WAITING + 8):
                guessing.start_soon(guess)
        refused = [answer for answer in answers if answer.status == 429]
        assert refused
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert "x" * 32 not in caplog.text
        assert len(caplog.records) <= 2  # one for each kind of refusal, however many there are

    async def test_who_is_signed_in_is_not_kept_out_by_those_who_guess_from_there(
        self, api: Api, own: dict[str, str], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Behind a proxy with TLS, everybody comes from one address."""
        monkeypatch.setattr(slowdown, "FIRST", slowdown.LONGEST)
        turned_away = trio.Event()

        async def guess() -> None:
            if (await api.over_tcp().get("/v1/status", **WRONG)).status == 429:
                turned_away.set()

        for _ in range(WAITING + 1):
            nursery.start_soon(guess)
        cookie = f"proxyctl-{api.port}={session.issue('act', TOKENS)}"
        with trio.fail_after(5):
            await turned_away.wait()
            answer = await api.over_tcp().post("/v1/services/web/pause", {}, cookie=cookie, **JSON, **own)
        assert answer.status == 200
        nursery.cancel_scope.cancel()

    async def test_whoever_was_signed_in_with_an_old_token_can_sign_in_with_the_new_one_at_once(self, api: Api) -> None:
        """Every page that is open shows its old cookie when the tokens have been changed."""
        cookie = f"proxyctl-{api.port}={session.issue('act', Tokens('before'))}"
        with trio.fail_after(2):
            async with trio.open_nursery() as pages:
                for _ in range(3 * WAITING):
                    pages.start_soon(partial(api.over_tcp().get, "/v1/status", cookie=cookie))
            assert (await _sign_in(api, TOKENS.act)).status == 303

    async def test_several_tokens_in_one_request_are_none(self, api: Api) -> None:
        head = "GET /v1/status HTTP/1.1\r\nHost: x\r\n"
        head += f"Authorization: Bearer x\r\nAuthorization: Bearer {TOKENS.act}\r\n\r\n"
        async with await api.over_tcp().connect() as stream:
            await stream.send_all(head.encode())
            with trio.fail_after(5):
                assert b" 400 " in bytes(await stream.receive_some()).partition(b"\r\n")[0]

    async def test_a_token_does_not_help_a_page_elsewhere(self, api: Api, control: FakeControl) -> None:
        for fields in ({**FOREIGN}, {"sec_fetch_site": "cross-site"}, {"origin": "null"}):
            assert (await api.over_tcp().post("/v1/stop", **JSON, **ACT, **fields)).status == 403
        assert control.calls == []

    async def test_any_name_will_do_where_a_token_is_shown(self, api: Api) -> None:
        assert (await api.over_tcp().get("/v1/status", host="proxy.example:9900", **ACT)).status == 200

    async def test_people_sign_in_with_a_token_and_act_by_a_cookie(
        self, api: Api, control: FakeControl, own: dict[str, str]
    ) -> None:
        tcp = api.over_tcp()
        page = await tcp.get("/")
        assert (page.status, page.headers["location"]) == (303, "/login")
        assert b'name="token"' in (await tcp.get("/login")).body
        answer = await _sign_in(api, TOKENS.act, **own)
        assert (answer.status, answer.headers["location"]) == (303, "/")
        cookie, *attributes = answer.headers["set-cookie"].split("; ")
        assert cookie.startswith(f"proxyctl-{api.port}=")
        assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
        assert TOKENS.act not in cookie
        assert (await tcp.get("/", cookie=cookie)).status == 200
        assert (await tcp.get("/v1/access", cookie=f"other=1; {cookie}")).json["right"] == "page"
        assert (await tcp.post("/v1/stop", cookie=cookie, **JSON, **own)).status == 202
        (caller,) = control.callers
        assert (caller.via, caller.right) == ("tcp", "page")
        out = await tcp.post("/logout", cookie=cookie, **own)
        assert (out.status, out.headers["location"]) == (303, "/login")
        assert "Max-Age=0" in out.headers["set-cookie"]

    async def test_who_is_signed_in_and_comes_by_a_link_is_not_asked_to_sign_in(self, api: Api) -> None:
        """The cookie does not come along from another site; the page, once there, has it."""
        by_link = await api.over_tcp().get("/", sec_fetch_site="cross-site")
        assert by_link.status == 200
        assert (await api.over_tcp().get("/", sec_fetch_site="none")).status == 303
        assert (await api.over_tcp().get("/v1/access", sec_fetch_site="cross-site")).status == 403

    async def test_who_signs_in_to_read_cannot_act(self, api: Api, control: FakeControl, own: dict[str, str]) -> None:
        cookie = (await _sign_in(api, TOKENS.read, **own)).headers["set-cookie"].partition(";")[0]
        assert (await api.over_tcp().get("/v1/status", cookie=cookie)).status == 200
        answer = await api.over_tcp().post("/v1/stop", cookie=cookie, **JSON, **own)
        assert (answer.status, answer.error["code"]) == (403, "read_only")
        assert control.calls == []

    @pytest.mark.parametrize(
        "fields",
        [
            {**JSON},  # no browser does that
            {**JSON, "origin": "http://evil.example"},
            {**JSON, "origin": "null"},
            {**JSON, "sec_fetch_site": "cross-site"},
            {**JSON, "sec_fetch_site": "same-site"},
            {"content_type": "application/x-www-form-urlencoded", "origin": "http://evil.example"},
            {"content_type": "text/plain"},
            {"content_type": "multipart/form-data; boundary=x"},
        ],
    )
    @pytest.mark.parametrize("target", ACTIONS)
    async def test_a_stolen_cookie_is_of_no_use_to_another_sites_form(
        self, api: Api, control: FakeControl, target: str, fields: dict[str, str]
    ) -> None:
        cookie = f"proxyctl-{api.port}={session.issue('act', TOKENS)}"
        answer = await api.over_tcp().post(target, cookie=cookie, **fields)
        assert answer.status in {403, 415}
        assert "set-cookie" not in answer.headers
        assert (control.calls, control.callers) == ([], [])

    @pytest.mark.parametrize("forged", ["act.9999999999.x", "", "x", "act.9999999999." + "0" * 64])
    async def test_a_made_up_cookie_is_none(
        self, api: Api, forged: str, own: dict[str, str], autojump_clock: trio.testing.MockClock
    ) -> None:
        cookie = f"proxyctl-{api.port}={forged}"
        assert (await api.over_tcp().post("/v1/stop", cookie=cookie, **JSON, **own)).status == 401

    @pytest.mark.parametrize(
        ("content_type", "content", "status"),
        [
            ("application/x-www-form-urlencoded", b"", 401),
            ("application/x-www-form-urlencoded", b"token=wrong", 401),
            ("application/x-www-form-urlencoded", b"token=\xff\x00", 401),
            ("application/x-www-form-urlencoded", b"&".join([b"token=x"] * 100), 400),
            ("application/x-www-form-urlencoded", b"x" * 70_000, 413),
            ("application/json", b'{"token": "x"}', 415),
            ("", b"token=x", 415),
        ],
    )
    async def test_the_form_takes_nothing_else(
        self,
        api: Api,
        content_type: str,
        content: bytes,
        status: int,
        own: dict[str, str],
        autojump_clock: trio.testing.MockClock,
    ) -> None:
        answer = await api.over_tcp().post("/login", content, **{**own, "content_type": content_type})
        assert answer.status == status
        assert b'role="alert"' in answer.body
        assert "set-cookie" not in answer.headers

    async def test_who_guesses_at_the_form_is_in_the_log_and_what_they_guess_is_not(
        self, api: Api, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
    ) -> None:
        for _ in range(3):
            assert (await _sign_in(api, "guess" * 6)).status == 401
        (told,) = [record for record in caplog.records if record.message == "request refused"]
        assert told.facts == {  # type: ignore[attr-defined]
            "client": "127.0.0.1",
            "method": "POST",
            "path": "/login",
            "reason": "the token is not right",
        }
        assert "guess" not in caplog.text

    async def test_nobody_is_signed_in_by_a_page_elsewhere(self, api: Api) -> None:
        """It would see what somebody does there, under a token of its own."""
        assert (await _sign_in(api, TOKENS.read, **FOREIGN)).status == 403

    async def test_the_parts_of_the_page_are_for_everybody(self, api: Api) -> None:
        """They are the same everywhere; the form looks like the page."""
        assert (await api.over_tcp().get("/page/style.css")).status == 200
        assert (await api.over_tcp().get("/page/nothing.css")).status == 401
        assert (await api.over_tcp().get("/page/index.html")).status == 401


class TestMetricsWithToken:
    @pytest.fixture
    def admin_keys(self, tmp_path: Path) -> dict[str, Any]:
        path = tmp_path / "tokens"
        path.touch(mode=0o600)
        path.write_text(TOKENS.act)
        return {"token_file": path, "metrics": "token"}

    async def test_a_scraper_shows_its_token(self, api: Api) -> None:
        tcp = api.over_tcp()
        assert (await tcp.get("/metrics")).status == 401
        assert (await tcp.get("/metrics", **ACT)).status == 200
        assert (await tcp.get("/livez")).status == 200


async def _sign_in(api: Api, token: str, **fields: str) -> Answer:
    content = urlencode({"token": token}).encode()
    return await api.over_tcp().post("/login", content, content_type="application/x-www-form-urlencoded", **fields)


def test_who_asked_can_be_read_again_from_what_was_written_down() -> None:
    caller = Caller("tcp", "10.0.0.1:5", "token")
    assert Caller.from_description(caller.describe()) == caller
