"""What a picture of a dashboard is put together from: words, units, axes, and shapes in SVG."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STYLE = """\
text { font: 12px system-ui, "Segoe UI", Roboto, sans-serif; fill: #c9cad6; }
.canvas { fill: #111319; }
.panel { fill: #191b22; stroke: #2a2d38; }
.title { font-size: 13px; font-weight: 600; fill: #dfe0ea; }
.head { font-size: 18px; font-weight: 600; fill: #f1f1f6; }
.row { font-size: 14px; font-weight: 600; fill: #dfe0ea; }
.faint { fill: #8b8d9b; }
.small { font-size: 11px; }
.tick { font-size: 10px; fill: #8b8d9b; }
.box { fill: #20232c; stroke: #343845; }
.grid { stroke: #262933; stroke-width: 1; }
.event { stroke-width: 1; stroke-dasharray: 3 3; opacity: 0.75; }
.line { fill: none; stroke-width: 1.4; stroke-linejoin: round; }
.number { font-weight: 600; }
.onto { font-size: 11px; font-weight: 600; fill: #111319; }"""

COLOURS = {
    "green": "#62c98a", "red": "#ee6473", "orange": "#f4944f", "blue": "#6aa4f5", "text": "#dfe0ea",
}  # fmt: skip
# Neighbours differ, also for the colour-blind: light and dark, warm and cold take turns. None is red: that is trouble.
_PALETTE = (
    "#62c98a", "#6aa4f5", "#e8c34f", "#b78af0", "#f0a870", "#4bc3cc", "#d682c0", "#a3d163", "#5f7fe0", "#8f9fb8",
    "#cfc7a0", "#3f9e8f",
)  # fmt: skip


class Palette:
    """A colour for each name: the same in every panel, unless two of a panel would have the same."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """For all names of a panel."""
        chosen: dict[str, str] = {}
        for name in names:
            colour = self._given.setdefault(name, _PALETTE[len(self._given) % len(_PALETTE)])
            free = [each for each in _PALETTE if each not in chosen.values()]
            chosen[name] = colour if colour in free or not free else free[0]
        return chosen


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


# Shapes.


def text(
    x: float, y: float, words: str, kind: str = "", *, anchor: str = "start", fill: str = "", size: float = 0
) -> str:
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    style = (f"fill:{fill};" if fill else "") + (f"font-size:{size:g}px;" if size else "")
    attributes += f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(words)}</text>'


def rectangle(box: Box, kind: str = "", *, fill: str = "", radius: float = 0, opacity: float = 1) -> str:
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' fill="{fill}"' if fill else ""
    attributes += f' rx="{radius:g}"' if radius else ""
    attributes += f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"{attributes}/>'


def upright(x: float, top: float, bottom: float, kind: str, *, stroke: str = "", title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    colour = f" stroke={quoteattr(stroke)}" if stroke else ""
    return f'<line class="{kind}" x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"{colour}>{told}</line>'


def level(y: float, left: float, right: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a line through these; what lies between two of the same height is left out."""
    rounded = [(round(x * 10), round(y * 10)) for x, y in points]
    kept = [
        point
        for number, point in enumerate(rounded)
        if not 0 < number < len(rounded) - 1 or not rounded[number - 1][1] == point[1] == rounded[number + 1][1]
    ]
    steps = [f"{(x - before) / 10:g} {(y - above) / 10:g}" for (before, above), (x, y) in pairwise(kept)]
    return f"M{kept[0][0] / 10:g} {kept[0][1] / 10:g}" + ("l" + " ".join(steps) if steps else "")


def area(top: Sequence[tuple[float, float]], bottom: Sequence[tuple[float, float]]) -> str:
    """The `d` of what lies between two lines."""
    return path([*top, *reversed(bottom)]) + "z"


def width_of(words: str, size: float = 12) -> float:
    """How wide they are at the most: fonts differ from machine to machine."""
    narrow = sum(character in "iljt.,:;'|!()[] " for character in words)
    return (len(words) * 0.63 - narrow * 0.25) * size


def shortened(words: str, width: float, size: float = 12) -> str:
    while len(words) > 1 and width_of(words, size) > width:
        words = words[:-2] + "…"
    return words


# Units and axes.

_SHORT = {"cps": "/s", "reqps": " req/s", "Bps": "B/s", "short": ""}


def with_unit(value: float, unit: str, now: float) -> str:
    """A value as Grafana's unit of that name has it."""
    if unit == "dateTimeFromNow":
        return f"{_seconds(round(now - value / 1000, -1 if now - value / 1000 > 99 else 0))} ago"
    if unit == "s":
        return _seconds(value)
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    size = abs(value)
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return f"{value / factor:.3g} {prefix}{_SHORT[unit].strip()}".rstrip()
    return f"{value:.3g}{' ' if unit == 'Bps' else ''}{_SHORT[unit]}"


def _seconds(value: float) -> str:
    size = abs(value)
    if size >= 60:
        return f"{value / 60:.3g} min"
    if size >= 1 or not size:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if size >= 1e-3 else f"{value * 1e6:.3g} µs"


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers, about so many, from below `low` to above `high`."""
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(each * scale for each in (1, 2, 2.5, 5, 10) if each * scale >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    return [number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def moments(start: float, end: float, count: int) -> Iterable[tuple[float, str]]:
    """Unix times, about so many, with what a clock shows (UTC)."""
    step = next(
        each for each in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600) if (end - start) / each <= count
    )
    first = math.ceil(start / step) * step
    for at in range(first, int(end) + 1, step):
        yield at, time.strftime("%H:%M:%S" if step < 60 else "%H:%M", time.gmtime(at))
