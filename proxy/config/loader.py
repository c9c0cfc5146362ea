"""From a file to settings, or to every problem in it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from proxy.config import admin_files, paths
from proxy.config.advice import advise
from proxy.config.checks import check
from proxy.config.keys import unknown_key
from proxy.config.sentences import translate
from proxy.config.settings import Settings
from proxy.config.source import Source
from proxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from proxy.config.findings import Finding
    from proxy.config.settings import Admin


class Examined(NamedTuple):
    """What a valid file means, and what in it may not be what was meant; `text` is what it says."""

    settings: Settings
    warnings: list[Problem]
    text: str


def load(path: Path) -> Settings:
    """Read and validate the config at `path`.

    Raises ConfigError with every problem found, in the order of the file.
    """
    return examine(path).settings


def examine(path: Path) -> Examined:
    """Do what `load` does, and look for what is valid but unwise."""
    return _examine(Source.read(path), path, admin_files.check)


def examine_text(text: str, path: Path) -> Examined:
    """Do what `examine` does with what the file at `path` said some time ago; which files there were is past."""
    return _examine(Source.parse(text, str(path)), path)


def _examine(source: Source, path: Path, more: Callable[[Admin], Iterator[Finding]] | None = None) -> Examined:
    findings = [*_reserved(source.table), *check(source.table)]
    try:
        settings = Settings.model_validate(_completed(source.table, path), context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(source.problems([*findings, *translate(error)])) from error
    findings += more(settings.admin) if more else ()
    if findings:
        raise ConfigError(source.problems(findings))
    return Examined(settings, source.problems(advise(settings)), source.text)


def _completed(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add what is not written in the file: its path, names, and defaults that depend on who runs the proxy."""
    services, admin = table.get("services"), table.get("admin", {})
    completed = {**table, "path": path.absolute()}
    if table.get("state_dir", "") == "":
        completed["state_dir"] = paths.default_state_dir()
    if isinstance(admin, dict) and admin.get("socket", "") == "":
        completed["admin"] = {**admin, "socket": paths.socket_of(table, path.absolute().parent)}
    if isinstance(services, dict):
        completed["services"] = _named({name: _completed_service(service) for name, service in services.items()})
    return completed


def _completed_service(service: Any) -> Any:
    if not isinstance(service, dict) or "versions" not in service:
        return service
    return {**service, "versions": _named(service["versions"])}


def _named(tables: Any) -> Any:
    if not isinstance(tables, dict):
        return tables
    return {name: {**table, "name": name} if isinstance(table, dict) else table for name, table in tables.items()}


def _reserved(table: dict[str, Any]) -> Iterator[Finding]:
    """The keys that `_completed` adds are unknown in a file."""
    if "path" in table:
        yield unknown_key(("path",), table["path"])
    for name, service in _tables(table.get("services")):
        if "name" in service:
            yield unknown_key(("services", name, "name"), service["name"])
        for version, recipe in _tables(service.get("versions")):
            if "name" in recipe:
                yield unknown_key(("services", name, "versions", version, "name"), recipe["name"])


def _tables(value: object) -> list[tuple[str, dict[str, Any]]]:
    return [(name, each) for name, each in value.items() if isinstance(each, dict)] if isinstance(value, dict) else []
