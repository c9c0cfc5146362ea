"""Which version serves after a start of the proxy: the newest decision wins."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING

import tomli

from proxy.config import adhoc_version
from proxy.errors import UsageError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from proxy.config.settings import Service as Settings
    from proxy.config.settings import Version
    from proxy.control.state import ServiceRecord

log = logging.getLogger(__name__)


def first_version(settings: Settings, record: ServiceRecord, known: Container[str]) -> str:
    """The version that was active last, unless `active` in the file was edited since that was decided."""
    if record.active is None or record.configured != settings.active:
        return settings.active
    if record.active in settings.versions or record.active in known:
        return record.active
    log.warning(
        "the version that was active is no longer configured",
        extra=facts(service=settings.name, version=record.active, instead=settings.active),
    )
    return settings.active


def remembered(settings: Settings, record: ServiceRecord) -> dict[str, Version]:
    """The versions that came with `swap X --command`, as far as they can still be used."""
    found = {}
    for name, command in record.known.items():
        try:
            found[name] = adhoc_version(name, command, settings)
        except UsageError as error:
            extra = facts(service=settings.name, version=name, reason=error.message)
            log.warning("a remembered version can no longer be used", extra=extra)
    return found


def configured_active(path: Path, service: str) -> str | None:
    """What the file says about `active` now; None where it cannot be read or does not say."""
    try:
        active = tomli.loads(path.read_text())["services"][service]["active"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return active if isinstance(active, str) else None


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Order names by how much they look like `name`."""
    return sorted(known, key=lambda other: -difflib.SequenceMatcher(None, name, other).ratio())
