from __future__ import annotations

import json
import time
from email.utils import formatdate
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http.answer import ANSWERS, HTML, JSON, TEXT, Answer, choose, render

DATE = formatdate(0, usegmt=True)
BAD_GATEWAY = Answer(502, "it <broke> & said nothing", "try “again”")


def response(
    answer: Answer, accept: bytes = b"", *, is_head: bool = False, close: bool = False
) -> tuple[h11.Response, bytes]:
    """Read an answer as a client does; that nothing is left over is checked on the way."""
    raw = render(answer, accept=accept, is_head=is_head, close=close, date=DATE)
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="HEAD" if is_head else "GET", target="/", headers=[("Host", "a")])
    connection.send(request)
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    head = connection.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)
    assert connection.their_state is (h11.MUST_CLOSE if close else h11.DONE)
    return head, body


def headers(head: h11.Response) -> dict[bytes, bytes]:
    return dict(head.headers.raw_items())


# What is sent

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("status", ANSWERS)
@pytest.mark.parametrize("accept", [b"", b"application/json", BROWSER])
def test_every_answer_can_be_read_by_a_client(status: int, accept: bytes) -> None:
    head, body = response(ANSWERS[status], accept)
    assert head.status_code == status
    assert str(status).encode() in body
    assert len(body) < 1500
    assert headers(head)[b"Date"] == DATE.encode()
    assert headers(head)[b"Cache-Control"] == b"no-store"


def test_the_answers_are_those_that_the_relay_needs() -> None:
    assert list(ANSWERS) == [400, 408, 431, 502, 503, 504]


def test_someone_at_a_terminal_reads_one_sentence_and_what_to_do() -> None:
    head, body = response(BAD_GATEWAY)
    assert body.decode() == "502 Bad Gateway: it <broke> & said nothing\ntry “again”\n"
    assert headers(head)[b"Content-Type"] == b"text/plain; charset=utf-8"
    assert response(Answer(504, "too late"))[1] == b"504 Gateway Timeout: too late\n"


def test_a_program_finds_the_same_keys_as_in_every_error_of_ours() -> None:
    head, body = response(BAD_GATEWAY, b"application/json")
    assert json.loads(body) == {
        "error": {
            "status": 502,
            "code": "bad_gateway",
            "message": "it <broke> & said nothing",
            "hint": "try “again”",
        }
    }
    assert headers(head)[b"Content-Type"] == b"application/json"


@pytest.mark.parametrize("answer", [BAD_GATEWAY, *ANSWERS.values()])
def test_a_browser_shows_a_page_that_needs_nothing_from_elsewhere(answer: Answer) -> None:
    head, body = response(answer, BROWSER)
    page = body.decode()
    assert headers(head)[b"Content-Type"] == b"text/html; charset=utf-8"
    tree = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # it is well-formed
    said = [paragraph.text for paragraph in tree.iter("p")]
    assert said == [answer.message, answer.hint] if answer.hint else [answer.message]
    assert [title.text for title in tree.iter("title")] == [answer.title]
    assert ("color-scheme", "light dark") in [(each.get("name"), each.get("content")) for each in tree.iter("meta")]
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(page)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in tags}
    assert not any("src" in attributes or "href" in attributes for _, attributes in tags)
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize("accept", [b"", b"application/json", BROWSER])
def test_head_tells_the_same_as_get_without_the_body(accept: bytes) -> None:
    whole, body = response(BAD_GATEWAY, accept)
    head, nothing = response(BAD_GATEWAY, accept, is_head=True)
    assert head == whole
    assert nothing == b""
    assert int(headers(head)[b"Content-Length"]) == len(body)


def test_a_client_knows_whether_its_connection_is_closed() -> None:
    assert headers(response(BAD_GATEWAY, close=True)[0])[b"Connection"] == b"close"
    assert b"Connection" not in headers(response(BAD_GATEWAY)[0])


def test_a_client_knows_when_to_come_back() -> None:
    assert headers(response(ANSWERS[503])[0])[b"Retry-After"] == b"1"
    assert headers(response(Answer(503, "later", retry_after=0))[0])[b"Retry-After"] == b"0"
    assert b"Retry-After" not in headers(response(ANSWERS[502])[0])


def test_nothing_of_backends_or_of_us_is_told_to_strangers() -> None:
    said = " ".join(answer.message + answer.hint for answer in ANSWERS.values()).lower()
    for word in ("backend", "generation", "upstream", "socket", "127.0.0.1", "proxyctl"):
        assert word not in said


# In which form


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (b"", TEXT),
        (b"*/*", TEXT),  # curl
        (BROWSER, HTML),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        (b"application/json", JSON),
        (b"application/json, text/plain, */*", JSON),  # axios
        (b"application/json, text/javascript, */*; q=0.01", JSON),  # jQuery
        (b"Application/JSON;charset=utf-8", JSON),
        (b"text/*, application/json;q=0.5", TEXT),
        (b"text/plain, text/html", TEXT),
        (b"text/html, text/plain", HTML),
        (b"text/plain;q=0.5, text/html;q=0.7, application/json;q=0.6", HTML),
        (b"text/html;q=0.5, */*;q=0.5", HTML),
        (b"text/html;q=0.5, */*", TEXT),
        (b"text/*;q=0.1, */*;q=0.9", JSON),
        (b"text/html;level=1", HTML),
        (b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1", TEXT),
        # Refused
        (b"text/plain;q=0, */*", JSON),
        (b"text/plain;q=0, application/json;q=0.000, */*;q=0.001", HTML),
        (b"text/*;q=0, */*", JSON),
        (b"*/*;q=0", TEXT),
        (b"text/plain;q=0", TEXT),
        (b"application/json;q=0", TEXT),
        # Nothing that we have
        (b"image/png", TEXT),
        (b"application/*", JSON),
        (b"image/*, application/xml", TEXT),
        (b"html", TEXT),
        # As loosely as people write
        (b"  text/html ;  Q=1.0  ,", HTML),
        (b",,text/html", HTML),
        (b";", TEXT),
        (b",;,;;q=1,", TEXT),
        (b"application/json;q=2, text/html;q=0.1", HTML),
        (b"application/json;q=, text/html;q=0.1", HTML),
        (b"application/json;q=0.1234, text/html;q=0.1", HTML),
        # Separators in quotes are none
        (b'image/png;a="x, text/html", application/json;q=0.5', JSON),
        (b'text/html;a="\\";q=0;\\"", application/json;q=0.5', HTML),
        (b'text/html;a="never closed, application/json', HTML),
    ],
)
def test_a_client_gets_the_form_that_it_likes_best(accept: bytes, kind: str) -> None:
    assert choose(accept) == kind


@given(st.binary(max_size=200) | st.text(alphabet='text/html,;q=01.*"\\ ', max_size=200).map(str.encode))
def test_whatever_a_client_accepts_it_is_answered(accept: bytes) -> None:
    assert choose(accept) in (TEXT, JSON, HTML)


WEIGHTS = st.integers(0, 1000)


@given(st.permutations([TEXT, JSON, HTML]), st.tuples(WEIGHTS, WEIGHTS, WEIGHTS))
def test_the_greatest_weight_wins_wherever_it_stands(kinds: list[str], weights: tuple[int, ...]) -> None:
    accept = ", ".join(f"{kind};q={weight / 1000}" for kind, weight in zip(kinds, weights, strict=True))
    chosen = choose(accept.encode())
    if any(weights):
        assert weights[kinds.index(chosen)] == max(weights)


@pytest.mark.parametrize(
    "hostile", [b'"' * 70_000, b'\\"' * 35_000, b'"\\' * 35_000, b";" * 70_000, b"," * 70_000, b'a;"' * 20_000]
)
def test_a_hostile_accept_costs_next_to_nothing(hostile: bytes) -> None:
    start = time.process_time()
    render(BAD_GATEWAY, accept=hostile, is_head=False, close=True, date=DATE)
    assert time.process_time() - start < 0.5
