"""Aligned columns; where there is no room for all of them, those that matter least go first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxy.cli.cells import cut, fold, pad, span, visible
from proxy.cli.terminal import paint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO


class Cell(NamedTuple):
    text: str
    color: str = ""


class Column(NamedTuple):
    """`goes` 0 stays; of the others those with the highest number go first, and all with the same number together."""

    name: str
    goes: int = 0
    right: bool = False


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str | Cell]],
    *,
    width: int | None,
    indent: int = 0,
    folds: bool = False,
) -> list[list[str]]:
    """The lines of the header, and of each row. With `folds` what has no column any more is told below its row.
    `width` None: as wide as it gets.
    """
    grid = [[Cell(column.name, "dim") for column in columns], *([_cell(cell) for cell in row] for row in rows)]
    room = width and width - indent
    kept = _kept(columns, [max(span(row[index].text) for row in grid) for index in range(len(columns))], room)
    margin = " " * indent
    shown = []
    for row in grid:
        cells = [
            Cell(pad(cut(row[at].text, wide), wide, right=columns[at].right), row[at].color)
            for at, wide in kept.items()
        ]
        shown.append([margin + line(cells, width=room)])
        if folds and row is not grid[0]:
            gone = [(columns[at].name.lower(), cell.text) for at, cell in enumerate(row) if at not in kept]
            facts = [f"{name} {text}" for name, text in gone if text not in {"", "-"}]
            shown[-1] += [paint(text, "dim") for text in _told(facts, width, margin + "  ")]
    return shown


def _told(facts: list[str], width: int | None, margin: str) -> list[str]:
    """Each of them in one line, if it can be."""
    words = [f"{fact}," for fact in facts[:-1]] + facts[-1:]
    if width is not None and any(span(margin + word) > width for word in words):
        words = " ".join(words).split()
    return fold(words, width, first=margin, rest=margin)


def _kept(columns: Sequence[Column], widths: list[int], room: int | None) -> dict[int, int]:
    """The columns that stay, by their index, and how wide they are."""
    kept = dict(enumerate(widths))
    while room is not None and sum(kept.values()) + 2 * (len(kept) - 1) > room:
        going = max(columns[index].goes for index in kept)
        if going:
            kept = {index: wide for index, wide in kept.items() if columns[index].goes < going}
            continue
        widest = max(kept, key=lambda index: kept[index])
        if kept[widest] <= 1:
            break
        kept[widest] -= 1
    return kept


def line(cells: Sequence[str | Cell], *, width: int | None, gap: str = "  ", stream: IO[str] | None = None) -> str:
    """Join cells, and cut what does not fit into `width` columns."""
    parts, room = [], width
    for index, cell in enumerate(map(_cell, cells)):
        text = (gap if index else "") + cell.text
        if room is not None:
            text, room = cut(text, room), max(0, room - span(text))
        parts.append(paint(text, cell.color, stream) if text else "")
    return "".join(parts).rstrip()


def _cell(cell: str | Cell) -> Cell:
    return Cell(visible(cell.text), cell.color) if isinstance(cell, Cell) else Cell(visible(cell))
