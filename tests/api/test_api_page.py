"""The page's files: all of them there, complete, and nothing in them from elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from proxy.api import page
from proxy.api.page import FOLDER, paths

if TYPE_CHECKING:
    from tests.ask import Api

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]


@pytest.mark.parametrize("path", sorted(paths()))
async def test_each_part_is_served_once_and_then_known(api: Api, path: str) -> None:
    tcp = api.over_tcp()
    first = await tcp.get(path)
    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    assert first.body == (FOLDER / path.removeprefix(page.PREFIX)).read_bytes()
    kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}[path.rpartition(".")[2]]
    assert first.headers["content-type"].startswith(kind)
    again = await tcp.get(path, if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert (await tcp.get(path, if_none_match='"another"')).status == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/../page.py", "/page/%2e%2e/page.py", "/page/index.html"]
)
async def test_nothing_else_is(api: Api, path: str) -> None:
    assert (await api.over_tcp().get(path)).status == 404


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    text = (FOLDER / name).read_text()
    allowed = {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"(?:https?:)?//[\w.-]+/[\w./-]*", text.replace("://", ":\0"))) == set()
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= allowed


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_module_that_is_imported_is_there(name: str) -> None:
    imported = re.findall(r'from "\./([\w.]+)"', (FOLDER / name).read_text())
    assert set(imported) <= set(SCRIPTS)


def test_no_text_is_ever_taken_for_markup() -> None:
    for name in SCRIPTS:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", (FOLDER / name).read_text()
        )


def test_every_colour_of_the_chart_is_in_the_style_sheet() -> None:
    colors = int(re.findall(r"const COLORS = (\d+)", (FOLDER / "chart.js").read_text())[0])
    style = (FOLDER / "style.css").read_text()
    for number in range(colors):
        assert style.count(f"--color-{number}:") == 2  # by day and by night
