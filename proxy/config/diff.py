"""What a reload would change, for control to carry out and for a person to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from proxy.core.duration import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from proxy.config.settings import Service, Settings, Version
    from proxy.core.address import Address

_NEEDS_RESTART = ("state_dir", "workers", "steering.marks")


@dataclass(frozen=True)
class Change:
    """One setting, by its key in its table (`drain.deadline`), with both values as a user would write them."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new}"


@dataclass(frozen=True)
class ServiceDiff:
    """What changed in one service. The versions are names, each in one of three tuples if its recipe changed at all."""

    name: str
    listen_added: tuple[Address, ...] = ()
    listen_removed: tuple[Address, ...] = ()
    active: Change | None = None
    versions_added: tuple[str, ...] = ()
    versions_removed: tuple[str, ...] = ()
    versions_changed: tuple[str, ...] = ()
    recipes: tuple[Change, ...] = ()
    settings: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return self != ServiceDiff(self.name)

    def sentences(self) -> Iterator[str]:
        yield from (f"{self.name}: listens on {address} too" for address in self.listen_added)
        yield from (f"{self.name}: no longer listens on {address}" for address in self.listen_removed)
        yield from (f"{self.name}: version {version} added" for version in self.versions_added)
        yield from (f"{self.name}: version {version} removed" for version in self.versions_removed)
        yield from (f"{self.name}: {change} (from its next start)" for change in self.recipes)
        yield from (f"{self.name}: {change}{_from_when(change)}" for change in self.settings)
        if self.active:
            yield f"{self.name}: {self.active}"


@dataclass(frozen=True)
class Diff:
    """From one config to another; services by name. False if nothing changed.

    `settings` take effect at once, `needs_restart` when the proxy is started again.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[ServiceDiff, ...] = ()
    settings: tuple[Change, ...] = ()
    needs_restart: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return self != Diff()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What changes now, a line each."""
        return (
            *(f"{name}: service added" for name in self.added),
            *(f"{name}: service removed" for name in self.removed),
            *(sentence for service in self.changed for sentence in service.sentences()),
            *(str(change) for change in self.settings),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not change before the proxy is started again, a line each."""
        return tuple(f"{change} takes effect when the proxy is started again" for change in self.needs_restart)


def diff(old: Settings, new: Settings) -> Diff:
    """Compare two validated configs. The order of services and versions means nothing."""
    changes = _changes(old, new, skip={"path", "services", "admin", "steering"})
    changes += _changes(old.admin, new.admin, prefix="admin.") + _changes(
        old.steering, new.steering, prefix="steering."
    )
    services = (service_diff(old.services[name], new.services[name]) for name in _common(old.services, new.services))
    return Diff(
        added=_missing_from(old.services, new.services),
        removed=_missing_from(new.services, old.services),
        changed=tuple(service for service in services if service),
        settings=tuple(change for change in changes if not _needs_restart(change)),
        needs_restart=tuple(change for change in changes if _needs_restart(change)),
    )


def service_diff(old: Service, new: Service) -> ServiceDiff:
    """Compare two settings of one service."""
    recipes = {
        name: _recipe_changes(old.versions[name], new.versions[name]) for name in _common(old.versions, new.versions)
    }
    return ServiceDiff(
        name=new.name,
        listen_added=tuple(address for address in new.listen if address not in old.listen),
        listen_removed=tuple(address for address in old.listen if address not in new.listen),
        active=Change("active", old.active, new.active) if old.active != new.active else None,
        versions_added=_missing_from(old.versions, new.versions),
        versions_removed=_missing_from(new.versions, old.versions),
        versions_changed=tuple(name for name, changes in recipes.items() if changes),
        recipes=tuple(change for changes in recipes.values() for change in changes),
        settings=(
            *_changes(old, new, skip={"name", "listen", "active", "http", "health", "drain", "versions"}),
            *_changes(old.http, new.http, prefix="http."),
            *_changes(old.health, new.health, prefix="health."),
            *_changes(old.drain, new.drain, prefix="drain."),
        ),
    )


def _needs_restart(change: Change) -> bool:
    return change.key in _NEEDS_RESTART or change.key.startswith("admin.")


def _from_when(change: Change) -> str:
    """Between "relay" and "steer" the next connection is the first; a listening socket is given to a backend when it is
    started, or not at all.
    """
    if change.key != "datapath":
        return ""
    return " (from the next swap or restart)" if "inherit" in {change.old, change.new} else " (for new connections)"


def _recipe_changes(old: Version, new: Version) -> tuple[Change, ...]:
    prefix = f"versions.{new.name}."
    env = tuple(
        Change(f"{prefix}env.{name}", *_unshown(old.env.get(name), new.env.get(name)))
        for name in {**old.env, **new.env}
        if old.env.get(name) != new.env.get(name)
    )
    return _changes(old, new, prefix=prefix, skip={"name", "env"}) + env


def _unshown(old: str | None, new: str | None) -> tuple[str, str]:
    """Passwords live in the environment, and what a reload did is logged."""
    if old is None:
        return "not set", "set"
    return "set", "not set" if new is None else "set to something else"


def _changes(
    old: BaseModel, new: BaseModel, *, prefix: str = "", skip: set[str] | frozenset[str] = frozenset()
) -> tuple[Change, ...]:
    return tuple(
        Change(prefix + key, _written(before), _written(after))
        for key in type(new).model_fields
        if key not in skip and (before := getattr(old, key)) != (after := getattr(new, key))
    )


def _missing_from(tables: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in other if name not in tables)


def _common(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in new if name in old)


def _written(value: object) -> str:
    """A value as the file would have it, without being pedantic about quotes."""
    match value:
        case None | "" | ():
            return "none"
        case bool():
            return str(value).lower()
        case Signals():
            return value.name
        case float():
            return format_duration(value)
        case str() | int() | Path():
            return str(value)
        case tuple():
            return "[" + ", ".join(_written(item) for item in value) + "]"
        case _:
            return str(value)
