"""`proxyctl history`: past swaps, and what else somebody asked for."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from proxy.cli import outcome
from proxy.cli.cells import wrapped
from proxy.cli.options import examples, json_option, service_option, talks
from proxy.cli.table import Cell, Column, table
from proxy.cli.terminal import paint, took, width

if TYPE_CHECKING:
    from proxy.cli.client import Client

Json = dict[str, Any]

_PHASES = ("start", "health", "switch", "drain", "stop")
_WHEN = "%Y-%m-%d %H:%M:%S"
_COLUMNS = (
    Column("WHEN", 1),
    Column("SERVICE", 2),
    Column("WHAT", 4),
    Column("FROM", 4),
    Column("TO"),
    Column("RESULT"),
    Column("TOOK", 3, right=True),
    *(Column(name.upper(), 5, right=True) for name in _PHASES),
    Column("DRAINED", 5, right=True),
    Column("FORCED", 5, right=True),
)
_OVERLAP = Column("OVERLAP", 5, right=True)
_BY = Column("BY", 6)


@click.command(
    epilog=examples("proxyctl history", "proxyctl history --service web -n 100 --json | jq '.history[].result'")
)
@service_option
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest last."
)
@json_option('Print {"history": […], "actions": […]} as the API has it.')
@talks
def command(client: Client, service: str | None, limit: int, *, as_json: bool) -> None:
    """Show past swaps: phase times and outcome. Between them, what else somebody asked for: pause, resume, reload,
    upgrade and stop.

    BY says who asked: the user and process for the control socket, the address for admin.listen, or the signal. DRAINED
    connections of the old generation finished by themselves, FORCED ones were closed at the deadline. OVERLAP,
    with datapath "inherit", is for how long both generations accepted. On a narrow screen, what has no room in the
    table stands below each swap.
    """
    query = f"limit={limit}" + (f"&service={quote(service, safe='')}" if service else "")
    answer = client.get(f"/v1/history?{query}")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        entries = answer["history"] + [each for each in answer.get("actions", ()) if "operation" not in each]
        newest = sorted(entries, key=_begun)[-limit:]
        click.echo("\n".join(render(newest, width=width())))


def render(entries: list[Json], *, width: int | None) -> list[str]:
    """The table, below each entry the reason of a failure, and what has no room in the table."""
    if not entries:
        return ["nothing has been swapped yet"]
    overlaps = any(entry.get("overlap") is not None for entry in entries)
    are_known = any(_by(entry) for entry in entries)
    columns = (*_COLUMNS, *([_OVERLAP] if overlaps else ()), *([_BY] if are_known else ()))
    rows = [
        (_row(entry) if "result" in entry else _action(entry))
        + _overlap(entry) * overlaps
        + [_by(entry) or "-"] * are_known
        for entry in entries
    ]
    lines, *shown = table(columns, rows, width=width, folds=True)
    for entry, (row, *folded) in zip(entries, shown, strict=True):
        reason = [paint(text, "red") for text in wrapped(entry.get("error") or "", width, first="  ")]
        lines += [row, *reason, *folded]
    return lines


def _begun(entry: Json) -> float:
    return float(entry.get("started") or entry["time"])


def _by(entry: Json) -> str:
    """Who asked for it, by what right: `root, pid 12 (proxyctl swap v2)`, `token, 10.0.0.7:50412`, `SIGHUP`."""
    by = entry.get("by") or {}
    return ", ".join(filter(None, [by.get("as"), by.get("from")])) or str(by.get("via", ""))


def _overlap(entry: Json) -> list[str | Cell]:
    """For how long both generations accepted, which they do where they inherit the listening socket."""
    seconds = entry.get("overlap")
    return ["-" if seconds is None else took(seconds)]


def _action(entry: Json) -> list[str | Cell]:
    """What has no phases, and no end that would be told here."""
    when = time.strftime(_WHEN, time.localtime(entry["time"]))
    what = "stop now" if entry.get("now") else entry["action"]
    return [when, entry["service"] or "-", what, *[""] * (len(_COLUMNS) - 3)]


def _row(entry: Json) -> list[str | Cell]:
    result = entry["result"]
    return [
        time.strftime(_WHEN, time.localtime(entry["started"])),
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
