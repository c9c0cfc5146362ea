"""`proxyctl check`: every error in a config, without running anything."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from proxy.cli.options import examples
from proxy.config import examine, find, json_schema
from proxy.core.duration import format_duration
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.config import Health, Service, Version
    from proxy.errors import Problem

_IN_THE_EDITOR = """

\b
To check and complete in the editor (Taplo; Even Better TOML in VS Code):
  proxyctl check --schema > proxy.schema.json
and make this the first line of the config:
  #:schema ./proxy.schema.json
"""
_PLAIN = re.compile(r"[\w@%+=:,./{}-]+")
_LONGEST_COMMAND = 60  # characters of it in a summary


@click.command(
    epilog=examples(
        "proxyctl check",
        "proxyctl check /etc/proxyctl/proxy.toml && proxyctl reload",
        "proxyctl check --json | jq '.errors[].message'",
    )
    + _IN_THE_EDITOR
)
@click.argument("config", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the errors and warnings as one JSON object.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the config, for editors.")
@click.pass_context
def command(context: click.Context, config: str | None, *, as_json: bool, schema: bool) -> None:
    """Validate CONFIG (default: ./proxy.toml, then /etc/proxyctl/proxy.toml).

    Prints every error with its place and a hint, or what would run. Exits with 2 if there is an error; warnings do not
    count.
    """
    if schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return
    try:
        path = find(config)
        settings, warnings, _ = examine(path)
    except ConfigError as error:
        if as_json:
            _print_json(config, error.problems, [])
        else:
            click.echo(error.message, err=True)
        context.exit(error.exit_code)
    if as_json:
        _print_json(str(path), [], warnings)
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{path} is valid")
    for service in settings.services.values():
        click.echo(f"  {_summary(service)}")


def _print_json(file: str | None, errors: Sequence[Problem], warnings: Sequence[Problem]) -> None:
    report = {
        "file": file,
        "valid": not errors,
        "errors": [asdict(problem) for problem in errors],
        "warnings": [asdict(problem) for problem in warnings],
    }
    click.echo(json.dumps(report, ensure_ascii=False))


def _summary(service: Service) -> str:
    """A line such as `web: 0.0.0.0:8080 → v1 (2 x ./app --port {port}), check: http /healthz, drain: 30s; also v2`."""
    listen = ", ".join(str(address) for address in service.listen)
    others = ", ".join(name for name in service.versions if name != service.active)
    return (
        f"{service.name}: {listen} → {service.active} ({_recipe(service.versions[service.active])}), "
        f"check: {_check(service.health)}, drain: {format_duration(service.drain.deadline)}"
        + (f"; also {others}" if others else "")
    )


def _recipe(version: Version) -> str:
    if version.address:
        return ", ".join(str(address) for address in version.address)
    words = " ".join(word if _PLAIN.fullmatch(word) else shlex.quote(word) for word in version.command)
    words = words if len(words) <= _LONGEST_COMMAND else words[: _LONGEST_COMMAND - 1] + "…"
    return f"{version.replicas} x {words}" if version.replicas > 1 else words


def _check(health: Health) -> str:
    return f"{health.type} {health.path}" if health.type == "http" else health.type
