from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http.forwarded import MODES, Forwarding
from proxy.core.http.head import RequestHead, parse_request

CLIENT = "203.0.113.7"
OURS = [
    b"X-Forwarded-For: 203.0.113.7",
    b"X-Forwarded-Proto: http",
    b"X-Forwarded-Host: example.com",
]
HOST = b"Host: example.com"


def request(*fields: bytes, line: bytes = b"GET /a?b HTTP/1.1") -> RequestHead:
    return parse_request(b"".join(each + b"\r\n" for each in (line, *fields, b"")))


def lines(raw: bytes) -> list[bytes]:
    """The fields of a head; that it still is one is checked on the way."""
    parse_request(raw)
    assert raw.endswith(b"\r\n\r\n")
    return raw[:-4].split(b"\r\n")[1:]


def sent(mode: str, *fields: bytes, client: str = CLIENT, request_id: bool = False) -> list[bytes]:
    return lines(Forwarding(mode, request_id=request_id).rewrite(request(*fields), client))


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_a_backend_learns_who_its_client_is(mode: str) -> None:
    assert sent(mode, HOST, b"Accept: */*") == [HOST, b"Accept: */*", *OURS]


def test_off_passes_a_head_as_it_is() -> None:
    head = request(HOST, b"X-Forwarded-For:  1.1.1.1", b"Connection: x-forwarded-for")
    assert Forwarding("off", request_id=False).rewrite(head, CLIENT) is head.raw


def test_a_way_that_does_not_exist_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="add"):
        Forwarding("add", request_id=False)


def test_a_balancer_in_front_keeps_its_say_and_we_stand_at_the_end() -> None:
    before = [b"X-Forwarded-For: 1.1.1.1, 2.2.2.2", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: shop.example"]
    after = [b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 203.0.113.7", *before[1:]]
    assert sent("append", HOST, *before) == [HOST, *after]


def test_several_fields_become_one_list_so_that_no_backend_reads_only_the_clients() -> None:
    fields = [b"x-forwarded-for: 1.1.1.1", HOST, b"X-FORWARDED-FOR:2.2.2.2\t", b"X_Forwarded_For: 3.3.3.3"]
    assert sent("append", *fields) == [b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 203.0.113.7", HOST, *OURS[1:]]


def test_an_empty_claim_does_not_leave_an_empty_element() -> None:
    assert sent("append", b"X-Forwarded-For:", HOST) == [OURS[0], HOST, *OURS[1:]]


def test_only_what_is_missing_is_added() -> None:
    assert sent("append", HOST, b"X-Forwarded-Host: shop.example") == [
        HOST, b"X-Forwarded-Host: shop.example", OURS[0], OURS[1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "claim",
    [
        b"X-Forwarded-For: 127.0.0.1",
        b"x-forwarded-for: 127.0.0.1",
        b"X_Forwarded_For: 127.0.0.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Port: 443",
        b"X-Forwarded-Prefix: /admin",
        b"Forwarded: for=127.0.0.1",
        b"X-Real-IP: 127.0.0.1",
        b"X_REAL_IP: 127.0.0.1",
        b"Connection: X-Forwarded-For",
    ],
)
def test_replace_leaves_nothing_of_what_a_client_claims(claim: bytes) -> None:
    assert sent("replace", claim, HOST, claim, b"Accept: */*", claim) == [HOST, b"Accept: */*", *OURS]


@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Connection: close, X-Forwarded-For", [b"Connection: close"]),
        (b"Connection:X-Forwarded-For , keep-alive", [b"Connection: keep-alive"]),
        (b"Connection: x-forwarded-host,Upgrade, Forwarded", [b"Connection:Upgrade"]),
        (b"Connection: , X-Real-Ip,", []),
        (b"Connection: forwarded", []),
        (b"Connection: Keep-Alive, TE", [b"Connection: Keep-Alive, TE"]),
    ],
)
def test_a_client_cannot_have_the_next_proxy_drop_what_we_say(mode: str, before: bytes, after: list[bytes]) -> None:
    without_spaces = [line.replace(b" ", b"") for line in sent(mode, before, HOST)]
    assert without_spaces == [line.replace(b" ", b"") for line in (*after, HOST, *OURS)]


def test_behind_a_unix_socket_the_list_is_left_to_who_knows() -> None:
    claims = [b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-For: 2.2.2.2"]
    assert sent("append", HOST, *claims, client="") == [HOST, *claims, *OURS[1:]]
    assert sent("append", HOST, client="") == [HOST, *OURS[1:]]
    assert sent("replace", HOST, *claims, client="") == [HOST, *OURS[1:]]


@pytest.mark.parametrize("fields", [(), (b"Host:",), (b"Forwarded: for=a",)])
def test_without_a_host_none_is_made_up(fields: tuple[bytes, ...]) -> None:
    old = request(*fields, line=b"GET / HTTP/1.0")
    assert lines(Forwarding("append", request_id=False).rewrite(old, "2001:db8::1")) == [
        *fields, b"X-Forwarded-For: 2001:db8::1", OURS[1],
    ]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("claims", [(), (b"X-Forwarded-For: 1.1.1.1",)])
def test_a_request_without_an_id_gets_one_of_its_own(mode: str, claims: tuple[bytes, ...]) -> None:
    first, second = (sent(mode, HOST, *claims, request_id=True)[-1] for _ in range(2))
    assert re.fullmatch(rb"X-Request-Id: [0-9a-f]{32}", first)
    assert first != second
    assert sent(mode, HOST, *claims) == sent(mode, HOST, *claims, request_id=True)[:-1]


@pytest.mark.parametrize("mode", MODES)
def test_the_id_that_a_client_gave_is_kept(mode: str) -> None:
    known = b"x-request-id: 7"
    assert sent(mode, HOST, known, request_id=True) == sent(mode, HOST, known)


# Whatever the head is

CLAIMS = (b"X-Forwarded-For", b"x_forwarded_for", b"X-FORWARDED-PROTO", b"X-Forwarded-Host", b"Forwarded", b"X-Real-IP")
NAMES = st.sampled_from([*CLAIMS, b"Accept", b"Cookie", b"X-Forwardedness", b"X-Request-Id", b"Connection"])
VALUES = st.sampled_from([b"", b"a", b"close", b"X-Forwarded-For", b"te, x_real_ip", b"1.1.1.1, 2.2.2.2"]) | st.binary(
    max_size=20
).map(lambda value: re.sub(rb"[\x00-\x1f\x7f]", b"\t", value))
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([b":", b": ", b": \t"]), VALUES).map(b"".join), max_size=8)
CLIENTS = st.sampled_from(["", CLIENT, "2001:db8::1"])
SPEAKS = re.compile(rb"(x[-_]forwarded[-_]|forwarded|x[-_]real[-_]ip|connection:)", re.IGNORECASE)


def others(fields: list[bytes]) -> list[bytes]:
    """The fields that rewriting has no business with."""
    return [line for line in fields if not SPEAKS.match(line)]


@given(st.sampled_from(MODES), FIELDS, CLIENTS)
def test_everything_else_reaches_the_backend_byte_for_byte(mode: str, fields: list[bytes], client: str) -> None:
    head = request(HOST, *fields)
    raw = Forwarding(mode, request_id=False).rewrite(head, client)
    assert raw.split(b"\r\n")[0] == head.raw.split(b"\r\n")[0]
    assert others(lines(raw)) == others(lines(head.raw))
    then = parse_request(raw)
    assert (then.length, then.keep_alive, then.upgrade) == (head.length, head.keep_alive, head.upgrade)


@given(FIELDS)
def test_appending_again_adds_one_element_and_no_field(fields: list[bytes]) -> None:
    forwarding = Forwarding("append", request_id=False)
    once = forwarding.rewrite(request(HOST, *fields), CLIENT)
    twice = forwarding.rewrite(parse_request(once), "192.0.2.1")
    assert twice == re.sub(rb"(?m)^(X-Forwarded-For: [^\r]*)", rb"\1, 192.0.2.1", once)
    assert len(re.findall(rb"(?mi)^x.forwarded.for:", twice)) == 1


@given(FIELDS, CLIENTS)
def test_after_replace_only_our_word_is_left_whatever_was_claimed(fields: list[bytes], client: str) -> None:
    forwarding = Forwarding("replace", request_id=False)
    raw = forwarding.rewrite(request(HOST, *fields), client)
    ours = [line for line in lines(raw) if SPEAKS.match(line) and not line.lower().startswith(b"connection:")]
    assert ours == [b"X-Forwarded-For: " + client.encode()] * bool(client) + OURS[1:]
    again = forwarding.rewrite(parse_request(raw), client)
    assert sorted(lines(again)) == sorted(lines(raw))


@given(FIELDS)
def test_what_the_parser_takes_for_a_claim_is_what_replace_drops(fields: list[bytes]) -> None:
    head = request(HOST, *fields)
    raw = Forwarding("replace", request_id=False).rewrite(head, "")
    assert head.has_claims == ([line for line in lines(raw) if line not in OURS] != lines(head.raw))
