"""The versions of a service that can be started: those of the config, and those that came with `swap X --command`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.config import adhoc_version
from proxy.config.suggest import nearest
from proxy.errors import UnknownVersionError, UsageError
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.config.settings import Service as Settings
    from proxy.config.settings import Version
    from proxy.control.state import ServiceRecord

log = logging.getLogger(__name__)

# Where each deployment brings a version of its own, they would pile up.
_REMEMBERED = 50


class Catalog:
    """`settings` may be replaced by a reload; what was learned is kept in the state record, and outlives the proxy."""

    def __init__(self, settings: Settings, record: ServiceRecord) -> None:
        self.settings = settings
        self._record = record
        self._learned = self._remember()

    @property
    def names(self) -> list[str]:
        configured = self.settings.versions
        return [*configured, *(name for name in self._learned if name not in configured)]

    def get(self, name: str) -> Version | None:
        """A configured version wins over a learned one of the same name: the file is what a person looks at."""
        return self.settings.versions.get(name) or self._learned.get(name)

    def find(self, name: str) -> Version:
        """Raise UnknownVersionError, which lists the known ones, nearest first."""
        version = self.get(name)
        if version is None:
            service = self.settings.name
            raise UnknownVersionError(
                f"{service} has no version {name}; it has {', '.join(nearest(name, self.names))}",
                hint=f"add [services.{service}.versions.{name}] to the config and `proxyctl reload`, "
                f'or give the command: `proxyctl swap {name} --command "…"`',
            )
        return version

    def learn(self, name: str, command: tuple[str, ...]) -> Version:
        """Remember a version by its command. Raises UsageError if it cannot be used, or the config has that name."""
        if name in self.settings.versions:
            raise UsageError(
                f"{name} is configured for {self.settings.name}, so it already has a command",
                hint="choose another name for the new command, or edit the config and `proxyctl reload`",
            )
        version = self._learned[name] = adhoc_version(name, command, self.settings)
        known = self._record.known
        known.pop(name, None)
        known[name] = list(command)
        for oldest in list(known)[:-_REMEMBERED]:
            if oldest not in {self._record.active, self._record.previous}:
                del known[oldest]
                self._learned.pop(oldest, None)  # it is not there if it could no longer be used
        return version

    def first(self) -> Version:
        """The version to serve after a start of the proxy: the newest decision wins.

        That is the one that was active last, unless `active` in the file was edited since that was decided.
        """
        record, settings = self._record, self.settings
        configured = settings.versions[settings.active]
        if record.active is None or record.configured != settings.active:
            return configured
        version = self.get(record.active)
        if version is None:
            extra = facts(service=settings.name, version=record.active, instead=settings.active)
            log.warning("the version that was active is no longer configured", extra=extra)
        return version or configured

    def _remember(self) -> dict[str, Version]:
        found = {}
        for name, command in self._record.known.items():
            try:
                found[name] = adhoc_version(name, command, self.settings)
            except UsageError as error:
                extra = facts(service=self.settings.name, version=name, reason=error.message)
                log.warning("a remembered version can no longer be used", extra=extra)
        return found
