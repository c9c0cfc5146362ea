"""What the page tells, and to whom: everything once, and nothing over and over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.page.paged import Paged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.e2e.page.browsing import Watched

# A store of the page that has been answered with `past`, and has learnt of `events` while it waited for that.
_CAUGHT_UP = """async ({ past, events }) => {
    const { Store } = await import("/page/store.js");
    const fetched = window.fetch;
    const store = new Store();
    window.fetch = async (path) => {
        events.forEach((event) => store.take(event));
        return new Response(JSON.stringify(path.startsWith("/v1/access") ? { role: "act" } : past));
    };
    await store.catchUp();
    window.fetch = fetched;
    events.forEach((event) => store.take(event));
    return { history: store.history.map(({ id }) => id), actions: store.actions.map(({ action }) => action) };
}"""

_SET_BACK = """async () => {
    const { Store } = await import("/page/store.js");
    const store = new Store();
    const now = Date.now() / 1000;
    const samples = { times: [now + 3600], services: {} };
    store.take({ type: "status", time: now, whole: true, samples, services: {} });
    store.connected("live");
    store.sample();
    return store.times.length;
}"""

_GONE = """async () => {
    const { chart } = await import("/page/chart.js");
    const rows = new Map([["1", [4, 5, null, null]], ["2", [null, 0, 5, 6]]]);
    const drawn = JSON.stringify(chart("web", [100, 102, 104, 106], rows, 106));
    const lines = [...drawn.matchAll(/"curve color-\\d","d":"([^"]*)"/g)].map(([, line]) => line.split(/[ML]/));
    return { said: drawn.match(/Open connections[^"]*/)[0], lines };
}"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    one = Paged(tmp_path_factory.mktemp("one"), "web")
    with one.proxy:
        yield one


@pytest.fixture
def page(one: Paged, watched: Watched) -> Page:
    return one.open(watched)


def test_what_happens_while_the_page_asks_for_the_history_is_in_it_once(page: Page) -> None:
    old, new = ({"id": number, "started": number, "finished": number + 1.5} for number in (1, 2))
    by = {"via": "tcp", "from": "10.0.0.7:5", "as": "token"}
    pause, resume = (
        {"time": at, "action": name, "service": "web", "by": by} for at, name in ((1, "pause"), (2, "resume"))
    )
    result: dict[str, Any] = {**new, "service": "web", "kind": "swap", "to": "v2", "result": "swapped"}
    events = [
        {"type": "result", "operation": 2, "result": result},
        {"type": "action", **pause},
        {"type": "action", **resume},
    ]
    past = {"history": [old], "actions": [pause]}
    found = page.evaluate(_CAUGHT_UP, {"past": past, "events": events})
    assert found == {"history": [1, 2], "actions": ["pause", "resume"]}


def test_an_action_has_one_time_on_file_and_in_the_stream(page: Page, one: Paged) -> None:
    page.evaluate("""() => {
        window.told = [];
        window.source = new EventSource("/v1/events");
        window.source.addEventListener("action", ({ data }) => window.told.push(JSON.parse(data).time));
        return new Promise((opened) => { window.source.onopen = opened; });
    }""")
    for verb in ("pause", "resume") * 10:
        one.proxy.begin(verb)
    page.wait_for_function("window.told.length === 20")
    on_file = [each["time"] for each in one.proxy.ask("GET", "/v1/history")[1]["actions"]]
    assert page.evaluate("window.told") == on_file[-20:]
    page.evaluate("window.source.close()")


def test_the_chart_goes_on_when_the_clock_is_set_back(page: Page) -> None:
    assert page.evaluate(_SET_BACK) == 2


def test_the_line_of_a_version_that_is_gone_falls_and_ends(page: Page) -> None:
    """A drain may be over between two samples: a swap is still one line that falls while the other rises."""
    shown = page.evaluate(_GONE)
    assert "generation 1 has 0 connections, generation 2 has 6 connections" in shown["said"]
    gone, there = [[point.split() for point in line if point] for line in shown["lines"]]
    assert (len(gone), len(there)) == (3, 3)
    assert gone[-1] == [there[1][0], there[0][1]], "at zero, when the other one had all of them"


def test_trouble_interrupts_whoever_listens_once_and_not_each_second(page: Page, one: Paged) -> None:
    path = one.proxy.state_dir / "audit.jsonl"
    path.unlink(missing_ok=True)
    path.mkdir()
    one.proxy.begin("pause")
    trouble = page.get_by_role("alert").filter(has_text="audit cannot be written")
    trouble.wait_for()
    said = trouble.inner_text()
    shown = page.locator(".trouble").inner_text()
    time.sleep(1.5)
    assert trouble.inner_text() == said
    assert page.locator(".trouble").inner_text() != shown
    path.rmdir()
    one.proxy.begin("resume")
    trouble.wait_for(state="hidden")
