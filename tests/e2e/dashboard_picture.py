"""A picture of the dashboard: its panels, at their places, with what a real Prometheus answers. It takes no Grafana."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from tests.e2e.monitoring import named
from tests.e2e.picture_parts import (
    COLOURS,
    STYLE,
    Box,
    Palette,
    area,
    level,
    moments,
    path,
    rectangle,
    shortened,
    text,
    ticks,
    upright,
    width_of,
    with_unit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.e2e.monitoring import Dashboard

Json = dict[str, Any]

_WIDTH = 1440
_MARGIN = 16
_GAP = 8
_COLUMN = (_WIDTH - 2 * _MARGIN + _GAP) / 24
_UNIT = 36  # of height, as the grid has it
_HEAD = 60
_AXIS = 56  # left of a plot
_LEGEND = 17  # a line of it


@dataclass(frozen=True)
class Named:
    legend: str
    points: list[tuple[float, float]]


class Picture:
    """Ask for everything, and draw it. `svg` is a whole document."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._palette = Palette()
        _, *annotations = dashboard.board["annotations"]["list"]
        self._marks = [
            (at, title, COLOURS[each["iconColor"]]) for each in annotations for at, title in dashboard.events(each)
        ]
        self._kinds = [(each["name"], COLOURS[each["iconColor"]]) for each in annotations]

    def svg(self) -> str:
        board, panels = self._dashboard.board, self._dashboard.panels
        bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
        height = _HEAD + bottom * _UNIT + _MARGIN - _GAP
        words = ". ".join(f"{panel['title']}: {panel['description']}" for panel in panels if panel["type"] != "row")
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
            f'  width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title desc">',
            f'<title id="title">The dashboard {escape(board["title"])}</title>',
            f'<desc id="desc">{escape(words)}</desc>',
            f"<style>\n{STYLE}\n</style>",
            rectangle(Box(0, 0, _WIDTH, height), "canvas"),
            *self._head(),
            *(part for panel in panels for part in self._panel(panel)),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _head(self) -> Iterator[str]:
        """Title, what is chosen, what the marks mean, and the time."""
        board, x = self._dashboard.board, _MARGIN
        yield text(x, 37, board["title"], "head")
        left = x + width_of(board["title"], 18) + 28
        for variable in board["templating"]["list"]:
            words = (variable["label"], "All" if variable["type"] == "query" else "Prometheus")
            width = width_of(words[0]) + width_of(words[1]) + 26
            yield rectangle(Box(left, 18, width, 28), "box", radius=3)
            yield text(left + 10, 36, words[0], "faint")
            yield text(left + 16 + width_of(words[0]), 36, words[1])
            left += width + 10
        form = "%H:%M:%S"
        start, end = (time.strftime(form, time.gmtime(at)) for at in (self._dashboard.start, self._dashboard.end))
        yield text(_WIDTH - _MARGIN, 36, f"{start} to {end}", "faint", anchor="end")
        left = _WIDTH - _MARGIN - 150
        for name, colour in reversed(self._kinds):
            left -= width_of(name) + 34
            yield f'<path d="M{left - 5:.1f} 36h10l-5 -9z" fill="{colour}"/>'
            yield text(left + 10, 36, name)

    def _panel(self, panel: Json) -> Iterator[str]:
        place = panel["gridPos"]
        box = Box(
            _MARGIN + place["x"] * _COLUMN,
            _HEAD + place["y"] * _UNIT,
            place["w"] * _COLUMN - _GAP,
            place["h"] * _UNIT - _GAP,
        )
        yield f'<g id="panel-{panel["id"]}">'
        if panel["type"] == "row":
            yield text(box.x + 4, box.y + 19, f"⌄ {panel['title']}", "row")
        else:
            yield f"<title>{escape(panel['description'])}</title>"
            yield rectangle(box, "panel", radius=3)
            yield text(box.x + 12, box.y + 20, panel["title"], "title")
            found = [
                Named(named(target["legendFormat"], line), line.points)
                for target in panel["targets"]
                for line in self._dashboard.ask(target)
            ]
            inside = Box(box.x + 12, box.y + 36, box.width - 24, box.height - 44)
            draw = {"stat": self._stat, "timeseries": self._series, "state-timeline": self._states}[panel["type"]]
            yield from draw(panel, inside, found)
        yield "</g>"

    # Numbers.

    def _stat(self, panel: Json, box: Box, found: Sequence[Named]) -> Iterator[str]:
        defaults, shows_names_alone = panel["fieldConfig"]["defaults"], panel["options"]["textMode"] == "name"
        if not found:
            yield text(box.x, box.y + 30, defaults.get("noValue", "No data"), "mark number", size=20)
        elif shows_names_alone:
            for number, each in enumerate(found):
                colour = _threshold(defaults, each.points[-1][1])
                yield text(box.x, box.y + 12 + number * 16.5, each.legend, "mark number", fill=colour)
        else:
            yield from self._values(defaults, box, found)

    def _values(self, defaults: Json, box: Box, found: Sequence[Named]) -> Iterator[str]:
        """Side by side, or one below the other where they are too many for that."""
        width = box.width / len(found)
        for number, each in enumerate(found):
            value = each.points[-1][1]
            words, fill = with_unit(value, defaults["unit"], self._dashboard.end), _threshold(defaults, value)
            if width < 100:
                y = box.y + 14 + number * 26
                yield text(box.x, y, each.legend, "faint")
                yield text(box.right, y, words, "mark number", anchor="end", fill=fill, size=17)
            else:
                left = box.x + number * width
                yield text(left, box.y + 12, shortened(each.legend, width - 6), "faint")
                yield text(left, box.y + 52, words, "mark number", fill=fill, size=32)

    # States.

    def _states(self, panel: Json, box: Box, found: Sequence[Named]) -> Iterator[str]:
        mapping = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
        left = max((width_of(each.legend, 11) for each in found), default=0) + 10
        plot = Box(box.x + left, box.y, box.width - left, box.height - 16)
        yield from self._time_axis(plot)
        yield from self._annotations(plot)
        height = plot.height / max(1, len(found))
        for number, each in enumerate(found):
            y = plot.y + number * height
            yield text(plot.x - 8, y + height / 2 + 4, each.legend, "small", anchor="end")
            for start, end, value in _stretches(each.points, self._dashboard.step):
                state = mapping[f"{value:g}"]
                x, right = self._at(start, plot), self._at(end, plot)
                bar = Box(x, y + height * 0.1, right - x, height * 0.8)
                yield rectangle(bar, "mark", fill=COLOURS[state["color"]], radius=2, opacity=0.7)
                if bar.width > width_of(state["text"], 11) + 12 and height > 14:
                    yield text(bar.x + 6, y + height / 2 + 4, state["text"], "onto")

    # Graphs.

    def _series(self, panel: Json, box: Box, found: Sequence[Named]) -> Iterator[str]:
        defaults = panel["fieldConfig"]["defaults"]
        custom = defaults["custom"]
        colours = self._colours(panel, found)
        legend, lines = _legend(box, found, colours)
        plot = Box(box.x + _AXIS, box.y, box.width - _AXIS, box.height - 20 - _LEGEND * lines)
        is_stacked = custom["stacking"]["mode"] == "normal"
        graphs = list(_stacked(found) if is_stacked else _apart(found))
        if is_stacked:  # on top of another one, nothing would look like as much as that
            graphs = [graph for graph in graphs if not _is_nothing(graph[1])] or graphs
        values = [value for _, points in graphs for _, low, high in points for value in (low, high)]
        low = min([0.0, *values]) if "min" not in defaults else defaults["min"]
        high = max([low, *values]) or 1.0
        is_count = custom["drawStyle"] == "bars" and defaults["unit"] == "short"
        marks = ticks(low, high, 4, whole=is_count or defaults.get("decimals") == 0)
        low, high = marks[0], marks[-1]

        def height(value: float) -> float:
            return plot.bottom - (value - low) / (high - low) * plot.height

        for mark in marks:
            yield level(height(mark), plot.x, plot.right, "grid")
            yield text(plot.x - 6, height(mark) + 3.5, with_unit(mark, defaults["unit"], 0), "tick", anchor="end")
        yield from self._time_axis(plot)
        yield from self._annotations(plot)
        if not found:
            yield text(plot.x + plot.width / 2, plot.y + plot.height / 2, "No data", "faint", anchor="middle")
        for name, points in graphs:
            colour, fill = colours[name], custom["fillOpacity"] / 100
            placed = [(self._at(at, plot), height(below), height(above)) for at, below, above in points]
            if custom["drawStyle"] == "bars":
                yield from self._bars(placed, plot, colour, fill)
            else:
                step = self._dashboard.step / (self._dashboard.end - self._dashboard.start) * plot.width
                is_stepped = custom["lineInterpolation"] == "stepAfter"
                for part in _unbroken(placed, step):
                    yield from _line(_stairs(part) if is_stepped else part, colour, fill)
        yield from legend

    def _colours(self, panel: Json, found: Sequence[Named]) -> dict[str, str]:
        """By legend: those that the panel says, and the palette's."""
        colours = self._palette.of(dict.fromkeys(each.legend for each in found))
        for override in panel["fieldConfig"]["overrides"]:
            pattern = override["matcher"]["options"].strip("/")
            (colour,) = [each["value"]["fixedColor"] for each in override["properties"]]
            colours |= {name: COLOURS[colour] for name in colours if re.search(pattern, name)}
        return colours

    def _bars(self, placed: Sequence[tuple[float, float, float]], plot: Box, colour: str, fill: float) -> Iterator[str]:
        points = (self._dashboard.end - self._dashboard.start) / self._dashboard.step
        width = max(3.0, plot.width / points * 0.8)
        for x, below, above in placed:
            if below - above > 0.05:
                bar = Box(min(max(x - width / 2, plot.x), plot.right - width), above, width, below - above)
                yield rectangle(bar, "mark", fill=colour, opacity=fill)

    # Time.

    def _at(self, moment: float, plot: Box) -> float:
        start, end = self._dashboard.start, self._dashboard.end
        return plot.x + (min(max(moment, start), end) - start) / (end - start) * plot.width

    def _time_axis(self, plot: Box) -> Iterator[str]:
        for moment, words in moments(self._dashboard.start, self._dashboard.end, max(2, int(plot.width / 52))):
            x = self._at(moment, plot)
            yield upright(x, plot.y, plot.bottom, "grid")
            if plot.x + 20 < x < plot.right - 20:
                yield text(x, plot.bottom + 13, words, "tick", anchor="middle")

    def _annotations(self, plot: Box) -> Iterator[str]:
        for moment, title, colour in self._marks:
            x = self._at(moment, plot)
            yield upright(x, plot.y, plot.bottom, "event", stroke=colour, title=title)
            yield f'<path d="M{x - 3.5:.1f} {plot.bottom + 4:.1f}h7l-3.5 -5z" fill="{colour}"/>'


def _legend(box: Box, found: Sequence[Named], colours: dict[str, str]) -> tuple[list[str], int]:
    """At the bottom of the panel, in two lines at the most, first what there is to see; and how many they are."""
    ranks: dict[str, bool] = {}
    for each in found:
        ranks[each.legend] = ranks.get(each.legend, True) and not any(value for _, value in each.points)
    rows: list[list[tuple[float, str]]] = [[]]
    x = 0.0
    for name in sorted(ranks, key=lambda name: ranks[name]):
        width = width_of(name, 11) + 26
        if x and x + width > box.width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, name))
        x += width
    if len(rows) > 2 and len(rows[1]) > 1:  # room to say how many more there are
        rows[2].insert(0, rows[1].pop())
    missing = sum(map(len, rows[2:]))
    words = f"and {missing} more" if missing else ""
    parts = [text(box.right, box.bottom, words, "faint small", anchor="end")]
    for number, row in enumerate(rows[:2]):
        y = box.bottom - (len(rows[:2]) - 1 - number) * _LEGEND
        for left, name in row:
            room = box.width - left - 20 - (width_of(words, 11) if number else 0)
            parts.append(rectangle(Box(box.x + left, y - 5, 12, 3), fill=colours[name], radius=1.5))
            parts.append(text(box.x + left + 17, y, shortened(name, room, 11), "legend small"))
    return parts, len(rows[:2])


Points = list[tuple[float, float, float]]  # a time, from where, to where


def _stacked(found: Sequence[Named]) -> Iterator[tuple[str, Points]]:
    """Each on top of those before it."""
    heights: dict[float, float] = {}
    for each in found:
        points = []
        for at, value in each.points:
            below = heights.get(at, 0.0)
            heights[at] = below + (0.0 if math.isnan(value) else value)
            points.append((at, below, heights[at]))
        yield each.legend, points


def _is_nothing(points: Points) -> bool:
    return all(below == above for _, below, above in points)


def _apart(found: Sequence[Named]) -> Iterator[tuple[str, Points]]:
    for each in found:
        yield each.legend, [(at, 0.0, value) for at, value in each.points if math.isfinite(value)]


def _unbroken(placed: Points, step: float) -> Iterator[Points]:
    """The stretches without a gap."""
    part: Points = []
    for point in placed:
        if part and point[0] - part[-1][0] > step * 1.5:
            yield part
            part = []
        part.append(point)
    if part:
        yield part


def _stairs(part: Points) -> Points:
    """Each value up to the next one."""
    corners = [(after[0], *before[1:]) for before, after in pairwise(part)]
    return [part[0], *(each for pair in zip(corners, part[1:], strict=True) for each in pair)]


def _line(part: Points, colour: str, fill: float) -> Iterator[str]:
    top = [(x, above) for x, _, above in part]
    bottom = [(x, below) for x, below, _ in part]
    if fill and any(above != below for _, below, above in part):
        yield f'<path d="{area(top, bottom)}" fill="{colour}" fill-opacity="{fill:g}"/>'
    yield f'<path class="mark line" d="{path(top)}" stroke="{colour}"/>'


def _stretches(points: Sequence[tuple[float, float]], step: float) -> Iterator[tuple[float, float, float]]:
    """From when to when a state lasted, and which it was."""
    start, end, state = points[0][0], points[0][0], points[0][1]
    for at, value in points[1:]:
        if value != state or at - end > step * 1.5:
            yield start, end + step, state
            start, state = at, value
        end = at
    yield start, end + step, state


def _threshold(defaults: Json, value: float) -> str:
    steps = defaults["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]]
