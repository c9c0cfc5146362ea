from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from proxy.kernel import tcp_ends
from proxy.kernel.tcp_ends import Ends
from tests.isolation import network_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

_SO_MEMINFO = 55


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def listening(host: str = "127.0.0.1") -> socket.socket:
    if ":" in host:
        return socket.create_server((host, 0), family=socket.AF_INET6, dualstack_ipv6=host == "::")
    return socket.create_server((host, 0))


def connected(listener: socket.socket, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection((host, port_of(listener)))
    return client, listener.accept()[0]


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def end(*sockets: socket.socket) -> None:
    """Close them with a reset: the kernel has nothing more to do for them."""
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.close()


async def woke(ends: Ends, *, within: float = 5) -> bool:
    with trio.move_on_after(within) as limit:
        await ends.wait()
    return not limit.cancelled_caught


@pytest.mark.parametrize(("bound", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
async def test_a_drain_is_woken_when_a_connection_ends_and_not_before(bound: str, host: str) -> None:
    with listening(bound) as listener, Ends([port_of(listener)]) as ends:
        client, server = connected(listener, host)
        assert not await woke(ends, within=0.05)
        client.close()
        assert not await woke(ends, within=0.05)  # its owner still has it
        server.close()
        assert await woke(ends)
        assert not await woke(ends, within=0.05)


async def test_one_that_ended_before_anybody_waited_is_not_missed() -> None:
    with listening() as listener, Ends([port_of(listener)]) as ends:
        end(*connected(listener))
        assert await woke(ends)


async def test_connections_of_other_services_wake_nobody() -> None:
    with listening() as ours, listening() as others, Ends([port_of(ours), 1]) as ends:
        for _ in range(50):
            end(*connected(others))
        assert not await woke(ends, within=0.1)
        end(*connected(ours))
        assert await woke(ends)


async def test_without_ports_every_end_wakes() -> None:
    with listening() as listener, Ends() as ends:
        end(*connected(listener))
        assert await woke(ends)


async def test_however_many_end_at_once_little_is_kept_of_them_and_no_later_one_is_missed() -> None:
    with listening() as listener, Ends([port_of(listener)]) as ends, contextlib.ExitStack() as stack:
        last = [stack.enter_context(each) for each in connected(listener)]
        for _ in range(400):
            end(*connected(listener))
        (kept,) = struct.unpack_from("=I", ends._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64))
        assert kept < 16384  # bytes, of memory
        while await woke(ends, within=0.2):
            pass
        end(*last)
        assert await woke(ends)


async def test_closing_it_ends_the_wait() -> None:
    ends = Ends()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ends.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ends.close()
    ends.close()


def test_a_filter_the_kernel_refuses_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_ends, "_only", lambda _: b"\xff" * 8)
    with pytest.raises(OSError, match="Invalid argument"):
        Ends([1])
