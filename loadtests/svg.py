"""Bars of ratios in SVG: from 1, to the right for more and to the left for less, on a logarithmic axis.

On such an axis twice as much and half as much are bars of the same length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 760
_LEFT = 110  # where the plot begins: what is left of it is the names of peers
_RIGHT = 700  # and where it ends: the rest is for values beside bars
_HEAD = 86
_FOOT = 50
_BAR = 11
_GAP = 7
_SECTION = 30

# Blue and orange stay apart for the colour-blind, and both have contrast on white and on near-black. Plain rules, not
# custom properties: what draws SVG outside of browsers does not know these, and would draw all of it black.
_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 15px; font-weight: 600; }
.section { font-weight: 600; }
.value { font-size: 10px; }
.paper { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.one { stroke: #1f2328; }
.series0 { fill: #0969da; }
.series1 { fill: #d4700c; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .grid { stroke: #3d444d; }
  .one { stroke: #e6edf3; }
  .series0 { fill: #58a6ff; }
  .series1 { fill: #f0883e; }
}"""


@dataclass(frozen=True)
class Bar:
    series: int  # 0 or 1: its colour
    value: float  # above 0


@dataclass(frozen=True)
class Row:
    """Bars that share a name."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Section:
    title: str
    rows: tuple[Row, ...]


def draw_bars(title: str, legend: Sequence[str], sections: Sequence[Section]) -> str:
    """A whole SVG document. `legend`: what each series is. Its description has all values, for who cannot see it."""
    axis = Axis.around([bar.value for section in sections for row in section.rows for bar in row.bars])
    bottom = _HEAD + sum(_section_height(section) for section in sections)
    height = bottom + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        f'  width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(_describe(legend, sections))}</desc>',
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        _text(16, 26, title, "title"),
        *_legend(legend),
        *_grid(axis, bottom),
        *_body(axis, sections),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Axis:
    """From 2 ** low to 2 ** high; 1 is always on it, and one step to each side of it."""

    low: int
    high: int

    @staticmethod
    def around(values: Sequence[float]) -> Axis:
        steps = [math.log2(value) for value in values]
        return Axis(min(-1, math.floor(min(steps, default=0))), max(1, math.ceil(max(steps, default=0))))

    def at(self, value: float) -> float:
        """Where on the chart, from its left."""
        return _LEFT + (math.log2(value) - self.low) / (self.high - self.low) * (_RIGHT - _LEFT)

    def ticks(self) -> list[float]:
        return [2.0**step for step in range(self.low, self.high + 1)]


def _section_height(section: Section) -> int:
    return _SECTION + sum(_row_height(row) for row in section.rows)


def _row_height(row: Row) -> int:
    return len(row.bars) * _BAR + _GAP


def _legend(legend: Sequence[str]) -> list[str]:
    parts = []
    for series, words in enumerate(legend):
        left = 16 + series * 300
        parts.append(f'<rect class="series{series}" x="{left}" y="40" width="12" height="12"/>')
        parts.append(_text(left + 18, 50, words))
    return parts


def _grid(axis: Axis, bottom: int) -> list[str]:
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        kind = "one" if tick == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{_HEAD - 8}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 16, f"{tick:g}", anchor="middle"))
    middle = (_LEFT + _RIGHT) / 2
    return [*parts, _text(middle, bottom + 36, "times the peer's, logarithmic; 1: the same", anchor="middle")]


def _body(axis: Axis, sections: Sequence[Section]) -> list[str]:
    parts, y = [], _HEAD
    for section in sections:
        parts.append(_text(16, y + 18, section.title, "section"))
        y += _SECTION
        for row in section.rows:
            parts.append(_text(_LEFT - 8, y + len(row.bars) * _BAR / 2 + 4, row.name, anchor="end"))
            parts += [part for index, bar in enumerate(row.bars) for part in _bar(axis, bar, y + index * _BAR)]
            y += _row_height(row)
    return parts


def _bar(axis: Axis, bar: Bar, y: int) -> list[str]:
    one, end = axis.at(1), axis.at(bar.value)
    left, width = min(one, end), max(abs(end - one), 0.5)
    # Beside the end that is further right, where no bar can be in the way.
    return [
        f'<rect class="series{bar.series}" x="{left:.1f}" y="{y}" width="{width:.1f}" height="{_BAR - 1}"/>',
        _text(max(one, end) + 4, y + _BAR - 2, f"{bar.value:.2f}", "value"),
    ]


def _text(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(words)}</text>'


def _describe(legend: Sequence[str], sections: Sequence[Section]) -> str:
    """All of it in words, a section after the other."""
    lines = [
        f"{section.title}, to {row.name}: "
        + ", ".join(f"{legend[bar.series].partition(' (')[0]} {bar.value:.2f}" for bar in row.bars)
        for section in sections
        for row in section.rows
    ]
    return "Ratios to each peer. " + "; ".join(lines) + "."
