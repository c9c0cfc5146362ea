"""What does not go together with a data path past the workers, "steer" or "inherit": valid, but without effect."""

from __future__ import annotations

from pathlib import PurePath
from signal import Signals
from typing import TYPE_CHECKING

from proxy.config.findings import Finding
from proxy.core import template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.positions import Path
    from proxy.config.settings import Service, Version

_HASTY = {  # programs that end at SIGTERM without waiting for their clients, and what helps
    "nginx": 'stop_signal = "SIGQUIT" lets it finish',
    "redis-server": 'signal_at = "end" lets them stay until the deadline',
}
_GONE = (
    'with datapath "inherit" the old generation is told to stop at the switch: there is nothing to go back to at once'
)
_RELAYED = 'datapath = "relay" sends every connection through a worker'


def shortcut(path: Path, service: Service) -> Iterator[Finding]:
    """Yield a Finding for everything in a service that its data path makes pointless."""
    if service.datapath == "steer":
        yield from _of_workers(path, service, "this counts only for connections that fall through to a worker")
        yield from _steer(path, service)
    elif service.datapath == "inherit":
        yield from _of_workers(path, service, "this has no effect: the backend accepts by itself, and no worker relays")
        yield from _inherit(path, service)
    if service.datapath != "relay" and service.drain.signal_at is None and service.drain.stop_signal is Signals.SIGTERM:
        yield from _hasty(path, service)


def _of_workers(path: Path, service: Service, message: str) -> Iterator[Finding]:
    """What only a worker can do, where it is not as it is by default."""
    fields = type(service).model_fields
    for key in ("protocol", "balance", "idle_timeout", "max_connections"):
        if getattr(service, key) != fields[key].default:
            yield Finding((*path, key), f'with datapath "{service.datapath}" {message}', _RELAYED)


def _steer(path: Path, service: Service) -> Iterator[Finding]:
    message = ""
    if all(address.is_unix for address in service.listen):
        message = "every address in listen is a Unix socket"
    elif not any(_has_port(version) for version in service.versions.values()):
        message = "every version has {socket} or an address"
    if message:
        yield Finding(
            (*path, "datapath"), f'{message}, which cannot be steered: "relay" is used', "TCP on this machine can"
        )


def _inherit(path: Path, service: Service) -> Iterator[Finding]:
    if "connect_timeout" in service.model_fields_set:
        message = 'with datapath "inherit" nothing is connected to, and who is not accepted yet waits without a limit'
        yield Finding((*path, "connect_timeout"), message, _RELAYED)
    for key in ("keep_warm", "bake"):
        if getattr(service.drain, key):
            yield Finding((*path, "drain", key), _GONE, "going back starts the old version anew")
    if service.drain.signal_at == "end":
        message = 'with datapath "inherit" stop_signal is sent at the switch: until then the old generation accepts too'
        yield Finding((*path, "drain", "signal_at"), message, "remove it")
    asked = service.health.type if "type" in service.health.model_fields_set else ""
    if asked in {"tcp", "http"} and not all("port" in _names(version) for version in service.versions.values()):
        message = 'there is no {port} to ask: with datapath "inherit" a backend says by itself that it is ready'
        hint = 'READY=1 to $NOTIFY_SOCKET (sd_notify(3)); or type = "command", or {port} in the command too'
        yield Finding((*path, "health", "type"), message, hint)


def _hasty(path: Path, service: Service) -> Iterator[Finding]:
    for name, version in service.versions.items():
        program = PurePath(version.command[0]).name if version.command else ""
        if program in _HASTY:
            message = (
                f'{program} cuts off its clients at SIGTERM, which datapath "{service.datapath}" sends at the switch'
            )
            yield Finding((*path, "versions", name, "command"), message, f"in drain, {_HASTY[program]}")


def _has_port(version: Version) -> bool:
    return bool(version.command) and "socket" not in _names(version)


def _names(version: Version) -> set[str]:
    return template.names([*version.command, *version.env.values()])
