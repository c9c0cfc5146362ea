"""Applying a changed config to a running proxy: all of it, or nothing where it is not valid or a port is taken."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from proxy import config
from proxy.config.diff import Diff, ServiceDiff, diff
from proxy.control import listeners
from proxy.control.service import Service
from proxy.core.requests import SwapRequest
from proxy.errors import ConflictError, ProxyError
from proxy.logs import facts

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from proxy.config import Examined
    from proxy.config.settings import Settings
    from proxy.control.app import App
    from proxy.control.inherited import Inherited
    from proxy.core.address import Address
    from proxy.core.caller import Caller

log = logging.getLogger(__name__)


class Reload:
    """One at a time; a reload that is asked for during another waits for it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = trio.Lock()

    async def perform(self, by: Caller) -> dict[str, Any]:
        """Read the file again and apply it. Returns `{"changes": [str], "warnings": [str]}`.

        Raises ConfigError, or what listeners.bind raises; then nothing has changed.
        """
        return await self.apply(await trio.to_thread.run_sync(config.examine, self._app.settings.path), by)

    async def apply(self, examined: Examined, by: Caller, inherited: Inherited | None = None) -> dict[str, Any]:
        """Do what `perform` does with a file that was read. Listeners that were `inherited` need not be opened."""
        async with self._lock:
            app, new = self._app, examined.settings
            # The command line may have overridden the socket, and a running proxy cannot move it anyway.
            kept = {"state_dir": app.settings.state_dir, "workers": app.settings.workers, "admin": app.settings.admin}
            kept["steering"] = app.settings.steering
            change = diff(app.settings, new)
            _refuse_hasty(change, app.services)
            opened = _bind(change, new, inherited)
            app.deps.audit.note("reload", by, changes=len(change.sentences))
            app.settings = new.model_copy(update=kept)
            warnings = [*change.warnings, *map(str, examined.warnings)]
            for name in change.removed:
                app.nursery.start_soon(app.remove_service, app.services[name])
            for service in change.changed:
                await app.services[service.name].reconfigure(
                    new.services[service.name], {str(address): opened[address] for address in service.listen_added}
                )
                warnings += self._follow_up(service, by)
            for name in change.added:
                service_added = Service(new.services[name], app.deps)
                service_added.listeners = {str(address): opened[address] for address in new.services[name].listen}
                await app.start_service(service_added)
            app.deps.state.state.config = examined.text
            app.deps.state.changed()
            changes = list(change.sentences)
            log.info("config reloaded", extra=facts(changes=len(changes), warnings=len(warnings) or None))
            app.deps.bus.publish("reload", changes=changes, warnings=warnings)
            return {"changes": changes, "warnings": warnings}

    def _follow_up(self, change: ServiceDiff, by: Caller) -> list[str]:
        """Swap where `active` was edited; say what the reload alone does not bring about."""
        service = self._app.services[change.name]
        active = service.active.version.name if service.active else None
        warnings = []
        if change.active and change.active.new != active:
            try:
                service.swap(SwapRequest(change.active.new), by)
            except ProxyError as error:
                warnings.append(f"{change.name}: `active` was edited, but: {error.message}")
        elif active in change.versions_changed:
            warnings.append(
                f"{change.name}: {active} runs as it was started; `proxyctl restart --service {change.name}` "
                "applies its new recipe"
            )
        if active in change.versions_removed:
            warnings.append(f"{change.name}: {active} is no longer configured, and still serves until the next swap")
        return warnings


def _refuse_hasty(change: Diff, services: Mapping[str, Service]) -> None:
    for name in change.added:
        if name in services:
            raise ConflictError(
                f"{name} was removed and is still draining, so it cannot be added again yet",
                hint="`proxyctl reload` again when `proxyctl status` no longer shows it",
            )


def _bind(change: Diff, new: Settings, inherited: Inherited | None) -> dict[Address, socket.socket]:
    """Open every listener that is new, or none: a port that is taken leaves all as it was."""
    wanted = [(service.name, address) for service in change.changed for address in service.listen_added]
    wanted += [(name, address) for name in change.added for address in new.services[name].listen]
    opened: dict[Address, socket.socket] = {}
    try:
        for name, address in wanted:
            opened[address] = (inherited and inherited.take(name, address)) or listeners.bind(
                address, blocking=new.services[name].datapath == "inherit"
            )
    except BaseException:
        for address, listener in opened.items():
            listeners.close(address, listener)
        raise
    return opened
