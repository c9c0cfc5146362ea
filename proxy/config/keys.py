"""Keys that the config does not have, and what was probably meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from proxy.config.findings import Finding, dotted
from proxy.config.settings import Admin, Drain, Health, Http, NotInFile, Service, Settings, Steering, Table, Version
from proxy.config.suggest import suggest

if TYPE_CHECKING:
    from proxy.config.positions import Path


def unknown_key(path: Path, value: object) -> Finding:
    """Say that `path` has no meaning: with the key that was meant, or the table where it belongs."""
    *parent, key = (str(part) for part in path)
    known = keys_of(table_at(tuple(parent)))
    similar = suggest(key, known)
    hints = [f'did you mean "{similar}"?' if similar else "", _as_table(parent, key, value) or _belongs(parent, key)]
    hint = " ".join(filter(None, hints)) or f"known here: {', '.join(known)}"
    return Finding(path, "unknown key", hint, at_key=True)


def meant(path: Path, value: object) -> str:
    """The key of the same table that an unknown one stands for; empty if that cannot be said."""
    *parent, key = (str(part) for part in path)
    if _as_table(parent, key, value):
        return "versions" if parent else "services"
    return suggest(key, keys_of(table_at(tuple(parent))))


def keys_of(model: type[Table]) -> list[str]:
    """The keys that a table of the file may have."""
    return [
        key
        for key, field in model.model_fields.items()
        if not any(isinstance(mark, NotInFile) for mark in field.metadata)
    ]


def table_at(path: tuple[str, ...]) -> type[Table]:
    """The model of the table at a path such as `("services", "web", "drain")`."""
    kind: Any = Settings
    for part in path:
        is_table = isinstance(kind, type) and issubclass(kind, Table)
        kind = kind.model_fields[part].annotation if is_table else get_args(kind)[1]
    return kind  # type: ignore[no-any-return]


def _belongs(parent: list[str], key: str) -> str:
    """Which other table has this key."""
    service = ["services", parent[1] if len(parent) > 1 and parent[0] == "services" else "NAME"]
    version = [*service, "versions", parent[3] if len(parent) > 3 and parent[2] == "versions" else "VERSION"]
    homes: list[tuple[type[Table], list[str]]] = [
        (Service, service),
        (Drain, [*service, "drain"]),
        (Health, [*service, "health"]),
        (Http, [*service, "http"]),
        (Version, version),
        (Admin, ["admin"]),
        (Steering, ["steering"]),
    ]
    if key in keys_of(Settings) and key != "services":
        return f'"{key}" belongs at the top of the file, before the first [table]'
    headers = [f"[{dotted(home)}]" for model, home in homes if home != parent and key in keys_of(model)]
    return f'"{key}" belongs in {" or ".join(headers)}' if headers else ""


def _as_table(parent: list[str], key: str, value: object) -> str:
    """A service or version whose header lacks a part."""
    if not isinstance(value, dict):
        return ""
    if not parent and "listen" in value:
        return f"a service is written [services.{dotted([key])}]"
    if len(parent) == 2 and parent[0] == "services" and value.keys() & {"command", "address"}:
        return f"a version is written [{dotted([*parent, 'versions', key])}]"
    return ""
