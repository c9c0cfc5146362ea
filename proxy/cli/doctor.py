"""`proxyctl doctor`: what this machine allows."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.machine import examine
from proxy.cli.options import examples, given_socket, json_option, socket_option
from proxy.cli.terminal import paint, width
from proxy.config.paths import default_socket, default_state_dir, find
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.cli.finding import Finding

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(
    epilog=examples("proxyctl doctor", "sudo proxyctl doctor", "proxyctl doctor --json | jq -r '.findings[].fix'")
)
@socket_option
@json_option('Print {"ok", "findings": [{"name", "level", "value", "fix"}]}.')
def command(socket: str | None, *, as_json: bool) -> int:
    """Show what this machine allows, and how to fix what it does not.

    Looks with the eyes of the user who runs it: run it as the user that will run the proxy. Exits with 1 only if the
    proxy cannot run here; what is marked "warn" costs something, and each says what.
    """
    state_dir, configured = _places()
    control_socket = Path(given_socket(socket) or configured)
    findings = examine(state_dir.absolute(), control_socket.absolute())
    ok = all(finding.level != "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}))
    else:
        click.echo("\n".join(render(findings, width())))
    return 0 if ok else 1


def render(findings: list[Finding], width: int | None) -> list[str]:
    """One line for each finding, below it how to fix it; wrapped at `width` columns."""
    wide = max(len(finding.name) for finding in findings)
    room = max(20, width - wide - 8) if width else 1000
    lines = []
    for finding in findings:
        first, *more = [
            part for text in (finding.value, *finding.fix.splitlines()) for part in textwrap.wrap(text, room)
        ]
        level = paint(finding.level.ljust(4), _COLORS[finding.level])
        lines += [f"{level}  {finding.name.ljust(wide)}  {first}", *(f"{'':{wide + 8}}{text}" for text in more)]
    return lines


def _places() -> tuple[Path, Path]:
    """state_dir and the control socket, as the config has them, or as they are without one that can be read."""
    from proxy.config import load  # noqa: PLC0415 - takes longer to import than all the rest

    try:
        settings = load(find())
    except ConfigError:  # `check` shows what is wrong with it
        state_dir = default_state_dir()
        return state_dir, default_socket(state_dir)
    return settings.state_dir, settings.admin.socket
