"""Aligned columns, cut to the width of the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxy.cli.terminal import paint

if TYPE_CHECKING:
    from collections.abc import Sequence


class Cell(NamedTuple):
    text: str
    color: str = ""


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, width: int | None, indent: int = 0
) -> list[str]:
    """The lines of a table. A header that begins with a space has its column aligned to the right; a row may be shorter
    than the headers, and one cell longer: that is a remark, and has no header. `width` None: as wide as it gets.
    """
    grid = [[Cell(header.strip(), "dim") for header in headers], *([_cell(cell) for cell in row] for row in rows)]
    widths = [
        max((len(row[index].text) for row in grid if index < len(row)), default=0) for index in range(len(headers))
    ]
    lines = []
    for row in grid:
        cells = []
        for index, cell in enumerate(row):
            if index < len(headers):
                pad = widths[index]
                text = cell.text.rjust(pad) if headers[index].startswith(" ") else cell.text.ljust(pad)
                cells.append(Cell(text, cell.color))
            else:
                cells.append(cell)
        lines.append(" " * indent + line(cells, width=width and width - indent))
    return lines


def line(cells: Sequence[str | Cell], *, width: int | None, gap: str = "  ") -> str:
    """Join cells, and cut what does not fit into `width` columns."""
    parts, room = [], width
    for index, cell in enumerate(map(_cell, cells)):
        text = (gap if index else "") + cell.text
        if room is not None:
            text, room = text[:room], max(0, room - len(text))
        parts.append(paint(text, cell.color))
    return "".join(parts).rstrip()


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)
