"""What a page elsewhere can make a browser send must be told from what this proxy's own page, and scripts, send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from proxy.api.foreign import ambiguous, foreign_page, wrong_content_type, wrong_host

HERE = "127.0.0.1:9900"


def headers(**fields: str) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in fields.items()})


@pytest.mark.parametrize("host", [HERE, "localhost", "LOCALHOST:9900", "[::1]:9900", "127.8.8.8:1", "localhost:8000"])
def test_whoever_is_on_this_machine_gets_in_also_through_a_tunnel(host: str) -> None:
    assert wrong_host(headers(host=host), only_loopback=True) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9900",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1:9900",
        "evil@127.0.0.1",
        "evil.example#@127.0.0.1:9900",
        "127.0.0.1/evil",
        "127.0.0.1:9900, evil.example",
        "127.0.0.1:port",
        "0x7f.1",
        "[::1",
        "::1",
        "[::ffff:10.0.0.1]",
        "0.0.0.0:9900",
        " ",
        "",
    ],
)
def test_a_name_that_was_made_to_lead_here_does_not_get_in(host: str) -> None:
    refusal = wrong_host(headers(host=host), only_loopback=True)
    assert refusal is not None
    assert refusal.status == 403


@pytest.mark.parametrize("host", ["proxy.example", "10.0.0.1:9900", "[2001:db8::1]:9900"])
def test_where_a_token_is_needed_any_name_will_do(host: str) -> None:
    assert wrong_host(headers(host=host), only_loopback=False) is None
    assert wrong_host(headers(host=f"{host}/x"), only_loopback=False) is not None


@given(st.text(), st.booleans())
def test_any_host_gets_an_answer(host: str, only_loopback: bool) -> None:
    refusal = wrong_host(Headers(raw=[(b"host", host.encode())]), only_loopback=only_loopback)
    assert refusal is None or refusal.status == 403


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sec_fetch_site": "none"},
        {"origin": f"http://{HERE}", "sec_fetch_site": "same-origin"},
        {"origin": f"https://{HERE}"},
    ],
)
def test_scripts_and_the_proxys_own_pages_are_at_home(fields: dict[str, str]) -> None:
    assert foreign_page(headers(host=HERE, **fields), must_say=False) is None
    assert (foreign_page(headers(host=HERE, **fields), must_say=True) is None) == ("origin" in fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://localhost:9900"},
        {"origin": f"http://{HERE}.evil.example"},
        {"origin": f"http://evil.example?{HERE}"},
        {"origin": f"ftp://{HERE}"},
        {"origin": "null"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": ""},
        {"origin": f"http://{HERE}", "sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_elsewhere_gives_itself_away(fields: dict[str, str]) -> None:
    refusal = foreign_page(headers(host=HERE, **fields), must_say=False)
    assert refusal is not None
    assert refusal.status == 403


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_what_no_form_can_send(kind: str) -> None:
    assert wrong_content_type(headers(content_type=kind)) is None


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json, text/plain",
    ],
)
def test_what_a_form_can_send_is_refused(kind: str) -> None:
    refusal = wrong_content_type(headers(content_type=kind))
    assert refusal is not None
    assert refusal.status == 415


@pytest.mark.parametrize("name", ["host", "origin", "content-type", "authorization", "sec-fetch-site"])
def test_nobody_can_say_two_things_at_once(name: str) -> None:
    assert ambiguous(Headers(raw=[(name.encode(), b"a")])) is None
    refusal = ambiguous(Headers(raw=[(name.encode(), b"a"), (name.encode(), b"b")]))
    assert refusal is not None
    assert refusal.status == 400
