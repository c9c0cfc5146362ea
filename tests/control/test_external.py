from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from proxy.config.settings import Service, Version
from proxy.control.external import External
from proxy.core.address import Address


def external(address: str) -> External:
    version = Version(name="v1", address=address, cwd=Path("/"))
    service = Service(name="web", listen="127.0.0.1:8080", active="v1", versions={"v1": version})
    return External(service, version, 3, 0)


class Resolver(trio.abc.HostnameResolver):
    """Answers with the hosts that a test sets."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        assert host == b"app.internal"
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.hosts]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def resolver() -> Resolver:
    created = Resolver()
    trio.socket.set_custom_hostname_resolver(created)
    return created


async def test_an_address_without_a_name_is_used_as_it_is() -> None:
    target = external("10.0.0.5:9000")
    assert not await target.refresh(move_on=True)
    assert target.address == target.configured == Address(host="10.0.0.5", port=9000)
    assert target.subject.host == ""


async def test_a_name_is_looked_up_and_stays_while_it_means_the_same(resolver: Resolver) -> None:
    target = external("app.internal:9000")
    resolver.hosts = ["10.0.0.1", "10.0.0.2"]
    assert await target.refresh(move_on=False)
    assert str(target.address) == "10.0.0.1:9000"
    resolver.hosts.reverse()
    assert not await target.refresh(move_on=False)
    assert str(target.address) == "10.0.0.1:9000"
    assert target.subject.host == "app.internal:9000"


async def test_an_address_that_fails_makes_room_for_the_next_one(resolver: Resolver) -> None:
    target = external("app.internal:9000")
    resolver.hosts = ["10.0.0.1", "10.0.0.2"]
    found = []
    for _ in range(4):
        await target.refresh(move_on=True)
        found.append(target.address.host)
    assert found == ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]


async def test_a_name_that_moved_is_followed(resolver: Resolver) -> None:
    target = external("app.internal:9000")
    resolver.hosts = ["10.0.0.1"]
    await target.refresh(move_on=False)
    resolver.hosts = ["10.0.0.9"]
    assert await target.refresh(move_on=False)
    assert str(target.address) == "10.0.0.9:9000"


async def test_a_name_that_cannot_be_looked_up_changes_nothing(resolver: Resolver) -> None:
    target = external("app.internal:9000")
    resolver.hosts = ["10.0.0.1"]
    await target.refresh(move_on=False)
    resolver.hosts = []
    with pytest.raises(socket.gaierror):
        await target.refresh(move_on=False)
    assert str(target.address) == "10.0.0.1:9000"


async def test_what_runs_elsewhere_has_no_end_no_output_and_no_owner_to_doubt() -> None:
    target = external("10.0.0.5:9000")
    assert await target.check_owner() == ""
    assert target.tail(5) == ()
    assert target.listens_on() == ()
    with trio.move_on_after(0) as never:
        await target.exited()
    assert never.cancelled_caught
