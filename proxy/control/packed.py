"""Descriptors that the control process hands to its own next image over an exec: one variable says which is which.

PROXY_INHERITED={"format": 1, "lock": 3, "control": {"unix:/run/…": 4}, "listeners": {"web": {"0.0.0.0:80": 5}},
                 "activated": ["unix:/run/…"]}
"""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

VARIABLE = "PROXY_INHERITED"
FORMAT = 1

_Descriptor = Annotated[int, Field(ge=3, lt=2**31)]

log = logging.getLogger(__name__)


class _Packed(BaseModel):
    model_config = ConfigDict(strict=True)  # more keys may come with a later release, which then reads this as well

    format: int
    lock: _Descriptor | None = None
    control: dict[str, _Descriptor] = {}
    listeners: dict[str, dict[str, _Descriptor]] = {}
    activated: list[str] = []

    def descriptors(self) -> list[int]:
        found = [
            *self.control.values(),
            *(each for by_address in self.listeners.values() for each in by_address.values()),
        ]
        return [*found, *([] if self.lock is None else [self.lock])]


@dataclass
class Unpacked:
    """Open sockets by address; `listeners` are service, address and socket."""

    lock: int | None = None
    control: dict[str, socket.socket] = field(default_factory=dict)
    listeners: list[tuple[str, str, socket.socket]] = field(default_factory=list)
    activated: set[str] = field(default_factory=set)


def pack(
    lock: int | None,
    control: Mapping[str, socket.socket],
    listeners: Mapping[str, Mapping[str, socket.socket]],
    activated: Iterable[str] = (),
) -> dict[str, str]:
    """Make these descriptors outlive an exec; returns what the environment of the next image has to have."""
    packed = _Packed(
        format=FORMAT,
        lock=lock,
        control={address: sock.fileno() for address, sock in control.items()},
        listeners={name: {key: sock.fileno() for key, sock in each.items()} for name, each in listeners.items()},
        activated=sorted(activated),
    )
    for descriptor in packed.descriptors():
        os.set_inheritable(descriptor, True)
    return {VARIABLE: packed.model_dump_json()}


def withdraw(variables: Mapping[str, str]) -> None:
    """Undo `pack`, after an exec that failed: what is started from now on has nothing of it."""
    for descriptor in _Packed.model_validate_json(variables[VARIABLE]).descriptors():
        os.set_inheritable(descriptor, False)


def unpack(environ: MutableMapping[str, str]) -> Unpacked:
    """Take the variable out of `environ`, and up what it names. What it names wrongly is logged and left out.

    All the descriptors are closed on exec from now on. Of a format that this release does not know, they are closed.
    """
    text = environ.pop(VARIABLE, None)
    if text is None:
        return Unpacked()
    try:
        packed = _Packed.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        log.error("descriptors of the earlier image are not understood", extra=facts(reason=reason, value=text[:200]))
        _close(_told(text))
        return Unpacked()
    if packed.format != FORMAT:
        log.error(
            "descriptors of the earlier image have another format", extra=facts(found=packed.format, known=FORMAT)
        )
        _close(_told(text))
        return Unpacked()
    sockets = {address: sock for address, number in packed.control.items() if (sock := _opened(number, address))}
    listeners = [
        (name, address, sock)
        for name, by_address in packed.listeners.items()
        for address, number in by_address.items()
        if (sock := _opened(number, address))
    ]
    return Unpacked(_lock(packed.lock), sockets, listeners, set(packed.activated))


def _opened(descriptor: int, address: str) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        log.error("listener of the earlier image is lost", extra=facts(address=address, reason=error.strerror))
        return None
    sock.set_inheritable(False)
    return sock


def _lock(descriptor: int | None) -> int | None:
    if descriptor is None:
        return None
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        log.error("lock of the earlier image is lost", extra=facts(reason=error.strerror))
        return None
    return descriptor


def _told(text: str) -> list[int]:
    """The descriptors in something that is not as it should be."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    found, rest = [], [value]
    while rest:
        match rest.pop():
            case dict() as inner:
                rest += [each for key, each in inner.items() if key != "format"]
            case list() as inner:
                rest += inner
            case bool():
                pass
            case int() as number:
                found.append(number)
    return found


def _close(descriptors: Iterable[int]) -> None:
    """Close those of them that came over the exec; whatever this image has opened itself ends with an exec."""
    for descriptor in descriptors:
        try:
            if descriptor > 2 and os.get_inheritable(descriptor):
                os.close(descriptor)
        except (OSError, OverflowError):
            continue
