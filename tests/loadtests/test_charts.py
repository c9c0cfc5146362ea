"""Charts that say what the numbers say: every bar begins at 1, and whoever cannot see them can read them."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from loadtests.charts import SUBJECTS, draw
from loadtests.model import TCP
from loadtests.svg import Axis, Bar, Row, Section, draw_bars
from tests.loadtests.made_up import EVERY_TCP, measured, relay

NAME = "{http://www.w3.org/2000/svg}"
SAMPLES = {
    "proxyctl TCP": [{"rate": 100.0, "cpu": 20.0}],
    "HAProxy TCP": [{"rate": 50.0, "cpu": 20.0}],
    "nginx TCP": [{"rate": 400.0, "cpu": 10.0}],
}


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)


def bars(svg: str, series: int) -> list[tuple[float, float]]:
    """Left and right of each, in their order."""
    found = [each for each in parsed(svg).iter(f"{NAME}rect") if each.get("class") == f"series{series}"]
    lefts = [(float(each.get("x", 0)), float(each.get("width", 0))) for each in found[1:]]  # the first is the legend's
    return [(left, left + width) for left, width in lefts]


def words(svg: str) -> list[str]:
    return [each.text or "" for each in parsed(svg).iter(f"{NAME}text")]


def test_more_is_to_the_right_of_one_and_less_to_the_left_in_equal_steps() -> None:
    svg = draw(measured({"kept-32": SAMPLES}))["kept-tcp.svg"].svg
    one = next(float(line.get("x1", 0)) for line in parsed(svg).iter(f"{NAME}line") if line.get("class") == "one")
    (haproxy, nginx) = bars(svg, 0)
    assert haproxy[0] == pytest.approx(one)
    assert nginx[1] == pytest.approx(one, abs=0.2)
    assert nginx[1] - nginx[0] == pytest.approx(2 * (haproxy[1] - haproxy[0]), abs=0.3)  # a quarter, and twice
    assert {"kept-32", "HAProxy", "nginx", "2.00", "0.25", "1.00"} <= set(words(svg))


def test_a_chart_can_be_read_out() -> None:
    svg = draw(measured({"kept-32": SAMPLES}))["kept-tcp.svg"].svg
    root = parsed(svg)
    assert root.findtext(f"{NAME}title") == "Small requests, TCP: proxyctl to its peers"
    assert "kept-32, to nginx: throughput 0.25, CPU time for each 2.00" in (root.findtext(f"{NAME}desc") or "")
    assert root.get("role") == "img"


def test_a_chart_has_colours_for_dark_and_for_light() -> None:
    style = parsed(draw(measured({"kept-32": SAMPLES}))["kept-tcp.svg"].svg).findtext(f"{NAME}style") or ""
    assert "prefers-color-scheme: dark" in style
    light, dark = (re.findall(r"(\S+) {[^{}]*: #\w{6}", part) for part in style.split("@media"))
    assert sorted(light) == sorted(dark)
    assert set(light) == {"text", ".paper", ".grid", ".one", ".series0", ".series1"}


def test_nothing_lies_outside_of_the_picture() -> None:
    svg = draw(measured({"kept-32": SAMPLES, "kept-1": SAMPLES, "varied": SAMPLES}))["kept-tcp.svg"].svg
    root = parsed(svg)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for each in root.iter(f"{NAME}rect"):
        assert 0 <= float(each.get("x", 0)) <= float(each.get("x", 0)) + float(each.get("width", 0)) <= width
    assert all(float(each.get("y", 0)) < height for each in root.iter() if each.get("y"))


def test_what_was_not_measured_has_no_chart() -> None:
    assert draw(measured({"kept-32": {"proxyctl TCP": SAMPLES["proxyctl TCP"]}})) == {}
    assert list(draw(measured({"new": SAMPLES}))) == ["new-tcp.svg"]


def test_relays_with_two_workers_have_a_section_of_their_own() -> None:
    relays = [*EVERY_TCP, relay("proxyctl", TCP, 2), relay("nginx", TCP, 2)]
    twos = {"proxyctl TCP, 2": [{"rate": 3.0}], "nginx TCP, 2": [{"rate": 4.0}]}
    svg = draw(measured({"kept-32": SAMPLES | twos}, relays))["kept-tcp.svg"].svg
    assert {"kept-32", "kept-32, 2 workers", "0.75"} <= set(words(svg))


def test_every_subject_has_words_for_its_columns() -> None:
    for subject in SUBJECTS:
        every = {
            "proxyctl TCP": [dict.fromkeys(subject.columns, 2.0)],
            "nginx TCP": [dict.fromkeys(subject.columns, 1.0)],
        }
        assert list(draw(measured({subject.scenarios[0]: every}))) == [f"{subject.name}-tcp.svg"]


@pytest.mark.parametrize(
    ("values", "ticks"), [([], [0.5, 1, 2]), ([1.0], [0.5, 1, 2]), ([0.3, 5.0], [0.25, 0.5, 1, 2, 4, 8])]
)
def test_an_axis_has_one_and_all_values(values: list[float], ticks: list[float]) -> None:
    assert Axis.around(values).ticks() == ticks


def test_names_are_escaped() -> None:
    svg = draw_bars("a < b", ["<x>"], [Section("s & t", (Row("<p>", (Bar(0, 2.0),)),))])
    assert {"a < b", "s & t", "<p>", "<x>"} <= set(words(svg))
