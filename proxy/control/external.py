"""A backend that runs elsewhere: nothing to start or stop, only an address whose name may come to mean another."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from proxy.control.check import Subject
from proxy.core import template
from proxy.core.address import Address

if TYPE_CHECKING:
    from proxy.config.settings import Service, Version
    from proxy.control.exits import Exit


class External:
    """A replica of a version with `address`. `configured` is as the config has it, `address` what it means now."""

    pid = None

    def __init__(self, service: Service, version: Version, generation: int, replica: int) -> None:
        self.configured = version.address[replica]
        self.replica = replica
        env = {
            **os.environ,
            "PROXY_SERVICE": service.name,
            "PROXY_VERSION": version.name,
            "PROXY_GENERATION": str(generation),
            "PROXY_REPLICA": str(replica),
        }
        values = template.Values(
            version=version.name,
            generation=generation,
            replica=replica,
            port=self.configured.port or None,
            socket=self.configured.path or None,
        )
        host = "" if self.configured.is_literal else str(self.configured)
        self.subject = Subject(address=self.configured, values=values, env=env, cwd=version.cwd, host=host)

    @property
    def address(self) -> Address:
        """An IP literal or Unix socket, once `refresh` has found one; until then `configured`."""
        return self.subject.address

    async def refresh(self, *, move_on: bool) -> bool:
        """Look the host name up again; return whether `address` changed.

        It stays while the name still stands for it, unless `move_on` asks for the next one of several. Raises OSError
        (socket.gaierror) when the name cannot be looked up.
        """
        if self.configured.is_literal:
            await trio.lowlevel.checkpoint()
            return False
        answers = await trio.socket.getaddrinfo(
            self.configured.host, self.configured.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        hosts = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))
        chosen = Address(host=_choose(hosts, self.address.host, move_on=move_on), port=self.configured.port)
        if chosen == self.address:
            return False
        self.subject = replace(self.subject, address=chosen)
        return True

    async def exited(self) -> Exit:
        """Never: it is not ours."""
        await trio.sleep_forever()

    async def check_owner(self) -> str:
        """Whoever answers is the right one."""
        await trio.lowlevel.checkpoint()
        return ""

    def listens_on(self) -> tuple[Address, ...]:
        return ()

    def tail(self, lines: int) -> tuple[str, ...]:  # noqa: ARG002  # what it prints is not ours to read
        return ()


def _choose(hosts: list[str], now: str, *, move_on: bool) -> str:
    if now not in hosts:
        return hosts[0]
    return hosts[(hosts.index(now) + move_on) % len(hosts)]
