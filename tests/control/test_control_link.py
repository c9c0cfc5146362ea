"""Control's end of a link, against a worker's end that the test plays on a real socket pair."""

import array
import os
import socket

import pytest
import trio
import trio.lowlevel

from proxy import wire
from proxy.control.link import Link, LinkLostError
from proxy.errors import WireError


@pytest.fixture
async def ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield trio.socket.from_stdlib_socket(ours), trio.socket.from_stdlib_socket(theirs)


async def test_answers_reach_whoever_asked_in_order(ends):
    ours, worker = ends
    link = Link(ours, lambda message: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        first, second = link.post(wire.Snapshot), link.post(wire.Snapshot)
        for number in (1, 2):
            assert wire.decode(await worker.recv(wire.MAX_MESSAGE)) == wire.Snapshot(number)
            await worker.send(wire.encode(wire.Ack(number, forced=number)))
        assert ((await first.wait()).forced, (await second.wait()).forced) == (1, 2)
        nursery.cancel_scope.cancel()


async def test_an_answers_counts_are_seen_before_what_the_worker_says_next(ends):
    ours, worker = ends
    seen = []
    link = Link(ours, seen.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        pending = link.post(wire.Snapshot, on_ack=seen.append)
        ack, remaining = wire.Ack(1, {1: 5}), wire.Remaining("web", 1, 0)
        await worker.send(wire.encode(ack))
        await worker.send(wire.encode(remaining))
        await pending.wait()
        while len(seen) < 2:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert seen == [ack, remaining]


async def test_descriptors_travel_with_their_message(ends):
    ours, worker = ends
    link = Link(ours, lambda message: None)
    read, write = os.pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        link.post(lambda seq: wire.Listen(seq, "web", add=("a",)), [write])
        _, ancillary, _, _ = await worker.recvmsg(wire.MAX_MESSAGE, socket.CMSG_SPACE(4))
        nursery.cancel_scope.cancel()
    os.close(write)
    passed = array.array("i", ancillary[0][2])[0]
    os.write(passed, b"through")
    os.close(passed)
    assert os.read(read, 10) == b"through"
    os.close(read)


async def test_a_worker_that_dies_leaves_nobody_waiting(ends):
    ours, worker = ends
    link = Link(ours, lambda message: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        pending = link.post(wire.Snapshot)
        await worker.recv(wire.MAX_MESSAGE)
        worker.close()
        with trio.fail_after(1), pytest.raises(LinkLostError):
            await pending.wait()
    with pytest.raises(LinkLostError):
        await link.post(wire.Snapshot).wait()


async def test_a_worker_of_another_release_is_refused(ends):
    ours, worker = ends
    await worker.send(wire.encode(wire.Hello(wire.VERSION + 1, 1)))
    with pytest.RaisesGroup(WireError):
        await Link(ours, lambda message: None).run()


async def test_a_request_that_cannot_be_sent_leaves_nobody_waiting(ends):
    """The worker's own end stays open: no end of the stream tells that it went wrong."""
    ours, _worker = ends
    ours.shutdown(socket.SHUT_WR)
    link = Link(ours, lambda message: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        pending = link.post(wire.Snapshot)
        with trio.fail_after(1), pytest.raises(LinkLostError):
            await pending.wait()
        nursery.cancel_scope.cancel()
    assert link.lost
