"""`proxyctl history`: past swaps."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from proxy.cli import outcome
from proxy.cli.options import examples, json_option, service_option, talks
from proxy.cli.table import Cell, line, table
from proxy.cli.terminal import took, width

if TYPE_CHECKING:
    from proxy.cli.client import Client

Json = dict[str, Any]

_PHASES = ("start", "health", "switch", "drain", "stop")
_HEADERS = (
    "WHEN",
    "SERVICE",
    "WHAT",
    "FROM",
    "TO",
    "RESULT",
    " TOOK",
    *(f" {name.upper()}" for name in _PHASES),
    " DRAINED",
    " FORCED",
)


@click.command(
    epilog=examples("proxyctl history", "proxyctl history --service web -n 100 --json | jq '.history[].result'")
)
@service_option
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest last."
)
@json_option('Print {"history": […]} as the API has it.')
@talks
def command(client: Client, service: str | None, limit: int, *, as_json: bool) -> None:
    """Show past swaps: phase times and outcome.

    DRAINED connections of the old generation finished by themselves, FORCED ones were closed at the deadline. OVERLAP,
    with datapath "inherit", is for how long both generations accepted.
    """
    query = f"limit={limit}" + (f"&service={quote(service, safe='')}" if service else "")
    answer = client.get(f"/v1/history?{query}")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo("\n".join(render(answer["history"], width=width())))


def render(entries: list[Json], *, width: int | None) -> list[str]:
    """The table, each failure with its reason below it."""
    if not entries:
        return ["nothing has been swapped yet"]
    overlaps = any(entry.get("overlap") is not None for entry in entries)
    headers = (*_HEADERS, " OVERLAP") if overlaps else _HEADERS
    lines = table(headers, [_row(entry) + _overlap(entry) * overlaps for entry in entries], width=width)
    shown = [lines[0]]
    for entry, text in zip(entries, lines[1:], strict=True):
        shown.append(text)
        if entry["error"]:
            shown.append(line([Cell(f"  {entry['error']}", "red")], width=width))
    return shown


def _overlap(entry: Json) -> list[str | Cell]:
    """For how long both generations accepted, which they do where they inherit the listening socket."""
    seconds = entry.get("overlap")
    return ["-" if seconds is None else took(seconds)]


def _row(entry: Json) -> list[str | Cell]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["started"]))
    result = entry["result"]
    return [
        when,
        entry["service"],
        entry.get("kind", "swap"),
        entry["from"] or "",
        entry["to"],
        Cell(result, "green" if result == "swapped" else "red"),
        took(outcome.duration(entry)),
        *(
            took(seconds) if (seconds := entry["phases"][name]) else "-" for name in _PHASES
        ),  # 0: it did not come to that
        str(entry["drained"]),
        str(entry["forced"]),
    ]
