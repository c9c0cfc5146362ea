"""Real backends, clients and kernel, in a network namespace and a BPF file system of each test's own."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio

from proxy.config.settings import Service, Version
from proxy.control.external import External
from proxy.control.steer_table import SLOTS, SteerTable
from proxy.core.address import Address
from proxy.kernel import bpffs, capabilities, inet_diag, sock_diag, tcp_ends
from tests.control.steered import (
    PATIENCE,
    PORT,
    PUBLIC,
    Crowd,
    Kernel,
    Worker,
    generation,
    isolated,
    start,
    steer,
)
from tests.control.world import World, world
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from proxy.control.steering import Steering


@pytest.fixture(autouse=True)
def _isolation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated(monkeypatch):
        yield


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as created:
        yield created


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with contextlib.ExitStack() as stack:
        yield Kernel(tmp_path, stack)


@pytest.fixture
def control(kernel: Kernel) -> Steering:
    return kernel.control()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with contextlib.closing(Crowd()) as made:
        yield made


@pytest.fixture
def worker() -> Iterator[Worker]:
    with contextlib.closing(Worker()) as made:
        yield made


def fail(number: int) -> Callable[..., NoReturn]:
    def failing(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return failing


# New connections.


async def test_a_client_reaches_the_backend_itself_which_sees_its_address(here, kernel, control, crowd) -> None:
    backend = await start(here, "v1")
    await steer(control, 1, backend)
    client = crowd.greeted()
    assert client.greeting == "v1"
    (connection,) = inet_diag.connections(marks=[0x100 - 1 + control._steered["web", 1].slot], ports=[PORT])
    assert connection.remote == client.sock.getsockname()
    await control.refresh()
    counts = kernel.counts(1)
    assert (counts.active, counts.connections, counts.steered, counts.fallen_through) == (1, 1, 1, 0)


async def test_after_the_switch_nobody_new_comes_to_the_old_one_and_nobody_leaves_it(here, control, crowd) -> None:
    await steer(control, 1, await start(here, "v1"))
    before = crowd.greeted()
    new = generation(2, await start(here, "v2", generation=2))
    assert await control.arrange("web", new) == ""
    assert crowd.words(20) == {"v1"}, "the new one is not to be seen before the switch"
    control.switch("web", 2)
    assert crowd.words(20) == {"v2"}
    assert before.is_open()
    control.switch("web", 1)
    assert crowd.words(20) == {"v1"}, "a rollback is as quick"


async def test_without_a_backend_clients_come_to_the_worker_and_are_counted(
    here, kernel, control, crowd, worker
) -> None:
    backend = await start(here, "v1")
    made = await steer(control, 1, backend)
    await backend.stop(signal.SIGKILL, 0)
    assert worker.gets(crowd.come())
    made.replicas[0].healthy = False
    assert await control.arrange("web", made) == ""
    assert worker.gets(crowd.come())
    await control.refresh()
    assert (kernel.counts(1).steered, kernel.counts(1).fallen_through) == (0, 2)
    again = await start(here, "again")
    made.replicas[0] = SimpleNamespace(healthy=True, target=again)
    assert await control.arrange("web", made) == ""
    assert crowd.words() == {"again"}, "it has another port than the one before"


async def test_while_a_service_is_paused_clients_come_to_the_worker(here, control, crowd, worker) -> None:
    await steer(control, 1, await start(here, "v1"))
    control.switch("web", None)
    assert worker.gets(crowd.come())
    control.switch("web", 1)
    assert crowd.words() == {"v1"}


async def test_every_replica_and_every_socket_of_it_gets_its_share(here, control, crowd) -> None:
    backends = [await start(here, f"r{number}", "twice", replica=number) for number in range(2)]
    await steer(control, 1, *backends)
    for _ in range(100):
        crowd.greeted()
    sockets = {each.inode for backend in backends for each in sock_diag.tcp_listeners(backend.address.port)}
    assert len(sockets) == 4
    assert crowd.words(100) == {"r0", "r1"}


async def test_a_replica_that_leaves_the_rotation_gets_nobody_new_until_it_is_back(here, control, crowd) -> None:
    first, second = await start(here, "r0"), await start(here, "r1", replica=1)
    made = await steer(control, 1, first, second)
    assert crowd.words(50) == {"r0", "r1"}
    for left in (0, 1):
        made.replicas[left].healthy = False
        assert await control.arrange("web", made) == ""
        assert crowd.words(50) == {f"r{1 - left}"}
        made.replicas[left].healthy = True
        assert await control.arrange("web", made) == ""
        assert crowd.words(50) == {"r0", "r1"}


async def test_with_more_sockets_than_there_is_room_for_no_replica_goes_empty(
    here, control, crowd, monkeypatch
) -> None:
    monkeypatch.setattr("proxy.control.steering.SOCKETS_PER_SLOT", 2)
    await steer(control, 1, await start(here, "r0", "twice"), await start(here, "r1", "twice", replica=1))
    assert crowd.words(50) == {"r0", "r1"}


async def test_a_server_that_opens_its_sockets_anew_is_followed(here, control, crowd, worker) -> None:
    backend = await start(here, "v1")
    made = await steer(control, 1, backend)
    assert not control.has_moved("web", 1)
    (here.folder / "v1").unlink()
    backend.signal(signal.SIGUSR1)
    while not control.has_moved("web", 1):
        await trio.sleep(0.01)
    with trio.fail_after(PATIENCE):
        while len(sock_diag.tcp_listeners(backend.address.port)) > 1:
            await trio.sleep(0.01)
    assert await control.arrange("web", made) == ""
    assert crowd.words(5) == {"v1"}
    assert not control.has_moved("web", 1)


async def test_a_backend_that_is_well_before_it_listens_is_steered_once_it_does(here, control, crowd) -> None:
    backend = await here.start(("sh", "-c", "echo > up; read go < fifo; exec sleep 60"))
    made = generation(1, backend)
    assert control.take_up("web", [PUBLIC]) == ""
    assert "no process of its backend is seen to listen" in await control.arrange("web", made)
    assert not control.has("web", 1), "nothing was ever sent to it: it is to be drained as one that is relayed"
    assert not control.has_moved("web", 1)
    with socket.create_server(("127.0.0.1", backend.address.port)):
        assert control.has_moved("web", 1), "so that it is tried again"


async def test_two_services_on_two_addresses_with_one_port_get_their_own_clients(here, control, crowd) -> None:
    other = Address(host="127.0.0.2", port=PORT)
    await steer(control, 1, await start(here, "web"))
    backend = await start(here, "api")
    assert control.take_up("api", [other]) == ""
    assert await control.arrange("api", generation(1, backend)) == ""
    control.switch("api", 1)
    assert {crowd.greeted().greeting for _ in range(10)} == {"web"}
    assert {crowd.greeted(other).greeting for _ in range(3)} == {"api"}
    assert ((await control.look("web", 1)).live, (await control.look("api", 1)).live) == (10, 3)


@pytest.mark.parametrize(
    ("public", "visited", "private"),
    [
        ("::", "::1", "::1"),
        ("::1", "::1", "::"),
        ("0.0.0.0", "127.0.0.1", "::"),
        ("127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
async def test_ipv6_and_backends_of_both_families(here, control, crowd, public, visited, private) -> None:
    backend = await start(here, "v1", private)
    assert control.take_up("web", [Address(host=public, port=PORT)]) == ""
    assert await control.arrange("web", generation(1, backend)) == ""
    control.switch("web", 1)
    crowd.greeted(Address(host=visited, port=PORT))
    assert (await control.look("web", 1)).live == 1


async def test_a_client_that_the_backend_cannot_take_comes_to_the_worker(here, control, crowd) -> None:
    backend = await start(here, "v1")  # IPv4 alone
    public = Address(host="::1", port=PORT)
    with contextlib.closing(Worker(public)) as worker:
        assert control.take_up("web", [public]) == ""
        assert await control.arrange("web", generation(1, backend)) == ""
        control.switch("web", 1)
        assert worker.gets(crowd.come(public))


# Reloads.


async def test_a_changed_address_steers_there_and_those_who_came_before_are_waited_for(
    here, control, crowd, worker
) -> None:
    await steer(control, 1, await start(here, "v1"))
    before, elsewhere = crowd.greeted(), Address(host="127.0.0.1", port=PORT + 1)
    assert control.take_up("web", [elsewhere]) == ""
    after = crowd.greeted(elsewhere)
    assert after.greeting == "v1"
    assert worker.gets(crowd.come())
    assert (await control.look("web", 1)).live == 2
    assert await control.close("web", 1) == 2
    assert not any(each.is_open() for each in (before, after))


async def test_a_service_that_is_not_steered_any_more_keeps_its_connections_and_their_count(
    here, control, crowd, worker
) -> None:
    await steer(control, 1, await start(here, "v1"))
    before = crowd.greeted()
    control.drop("web")
    control.switch("web", 1)  # whatever a route change makes of it
    assert worker.gets(crowd.come())
    assert before.is_open()
    assert (await control.look("web", 1)).live == 1


async def test_any_number_of_services_may_come_and_go(control) -> None:
    for number in range(300):
        assert control.take_up(f"s{number}", [PUBLIC]) == ""
        control.drop(f"s{number}")


async def test_a_service_too_many_is_told_why(control) -> None:
    for number in range(256):
        assert control.take_up(f"s{number}", [Address(host="127.0.0.1", port=1000 + number)]) == ""
    assert control.take_up("one more", [PUBLIC]) == "256 services are steered already"


async def test_an_address_that_cannot_be_told_leaves_the_service_to_the_workers(here, control, crowd, worker) -> None:
    await steer(control, 1, await start(here, "v1"))
    scoped = Address(host="fe80::1%lo", port=PORT)
    assert "cannot be told" in control.take_up("web", [PUBLIC, scoped])
    control.switch("web", 1)
    assert worker.gets(crowd.come()), "half of it would be steered to what nobody looks after"


# Why not.


async def test_what_cannot_be_steered_is_relayed_and_says_why(here, control) -> None:
    settings, version = here.service(("true",))
    version = Version(name="v1", address=["127.0.0.1:9"])
    settings = Service(name="web", listen="127.0.0.1:8080", active="v1", versions={"v1": version})
    assert control.take_up("web", [PUBLIC]) == ""
    external = generation(1, External(settings, version, 1, 0))
    assert await control.arrange("web", external) == "127.0.0.1:9 is not run by this proxy"
    by_path = generation(2, await here.start(("sh", "-c", "exec sleep 60 # {socket}")))
    assert await control.arrange("web", by_path) == "its backend listens on a Unix socket ({socket})"
    assert control.take_up("web", [Address(path="/run/web")]) == "every address it listens on is a Unix socket"
    assert not control.has("web", 1)


async def test_a_backend_in_another_network_namespace_is_relayed(here, control) -> None:
    unshare = need("unshare", package="util-linux")
    backend = await start(here, "v1", within=(unshare, "--net"))
    assert control.take_up("web", [PUBLIC]) == ""
    reason = await control.arrange("web", generation(1, backend))
    assert reason == "its backend is in another network namespace"


@pytest.mark.parametrize("lost", [capabilities.Capability.NET_ADMIN, capabilities.Capability.BPF])
async def test_without_the_right_to_it_says_so_before_it_does_half_of_it(kernel, monkeypatch, lost) -> None:
    every = capabilities.effective() & ~(1 << lost) & ~(1 << capabilities.Capability.SYS_ADMIN)
    monkeypatch.setattr(capabilities, "effective", lambda: every)
    control = kernel.control()
    assert control.take_up("web", [PUBLIC]) == f"this process may not steer: it lacks {lost.title}"
    assert not control.folder.exists()
    assert await control.arrange("web", generation(1)) == ""
    control.switch("web", 1)
    control.forget("web", 1)
    control.drop("web")
    await control.refresh()


async def test_a_proxy_without_any_right_starts_and_stops(kernel, tmp_path, monkeypatch) -> None:
    bpffs.make_folder(bpffs.pin_folder_root)
    os.seteuid(65534)
    try:
        control = kernel.control()
        control.find()
        control.remove()
        control.remove_strangers([PUBLIC])
    finally:
        os.seteuid(0)


async def test_with_all_marks_in_use_the_next_generation_is_relayed_until_one_is_free(here, kernel, crowd) -> None:
    backend, control = await start(here, "v1"), kernel.control(marks="0x100-0x10f")
    assert control.take_up("web", [PUBLIC]) == ""
    for number in range(1, 17):
        assert await control.arrange("web", generation(number, backend)) == ""
    assert "all marks are in use" in await control.arrange("web", generation(17, backend))
    assert not control.has("web", 17)
    control.forget("web", 5)
    assert await control.arrange("web", generation(17, backend)) == ""


# Drains.


async def test_a_drain_sees_every_connection_and_ends_with_the_last_one(here, kernel, control, crowd, nursery) -> None:
    await steer(control, 1, await start(here, "v1"))
    clients = [crowd.greeted() for _ in range(5)]
    await steer(control, 2, await start(here, "v2", generation=2))
    bystander = crowd.greeted()
    send, heard = trio.open_memory_channel[int](100)
    over = trio.Event()

    async def drain() -> None:
        await control.drained("web", 1, send.send_nowait)
        over.set()

    nursery.start_soon(drain)
    with trio.fail_after(PATIENCE):
        assert await heard.receive() == 5
        for each in clients[:3]:
            each.close()
        while await heard.receive() != 2:
            pass
        assert not over.is_set()
        for each in clients[3:]:
            each.close()
        await over.wait()
    assert bystander.is_open()
    control.forget("web", 1)
    assert (kernel.counts(1).active, kernel.counts(1).steered) == (0, 5), "what was counted stays"


async def test_a_drain_ends_where_the_kernel_tells_of_no_end(here, control, crowd, nursery, monkeypatch) -> None:
    await steer(control, 1, await start(here, "v1"))
    client = crowd.greeted()
    control.switch("web", None)
    monkeypatch.setattr(tcp_ends, "Ends", fail(errno.EPERM))
    with trio.fail_after(PATIENCE):
        await control.drained("web", 1, lambda _: client.close())


async def test_who_waits_in_the_old_ones_queue_is_waited_for_before_it_is_told_to_stop(
    here, control, crowd, nursery
) -> None:
    backend = await start(here, "v1", "deaf")
    await steer(control, 1, backend)
    client = crowd.come()
    control.switch("web", None)
    assert (await control.look("web", 1)).waiting == 1
    settled = trio.Event()

    async def settle() -> None:
        await control.settled("web", 1)
        settled.set()

    nursery.start_soon(settle)
    await trio.sleep(0.1)
    assert not settled.is_set()
    backend.signal(signal.SIGUSR2)
    with trio.fail_after(PATIENCE):
        await settled.wait()
    assert client.word() == "v1"


async def test_at_the_deadline_exactly_the_old_ones_connections_are_closed(here, control, crowd) -> None:
    backend = await start(here, "v1")
    await steer(control, 1, backend)
    old = [crowd.greeted() for _ in range(20)]
    relayed = crowd.greeted(backend.address)  # as a worker does; it has the mark, too
    await steer(control, 2, await start(here, "v2", generation=2))
    new = [crowd.greeted() for _ in range(20)]
    assert await control.close("web", 1) == 20
    assert not any(each.is_open() for each in old)
    assert all(each.is_open() for each in (*new, relayed))
    assert (await control.look("web", 1)).live == 0


async def test_who_waits_in_the_queue_at_the_deadline_is_closed_and_counted(here, control, crowd) -> None:
    await steer(control, 1, await start(here, "v1", "deaf"))
    client = crowd.come()
    control.switch("web", None)
    assert await control.close("web", 1) == 1
    assert not client.is_open()


async def test_a_draining_generations_connections_are_shown_more_closely(here, control, crowd) -> None:
    await steer(control, 1, await start(here, "v1"))
    client = crowd.greeted()
    client.sock.sendall(b"12345")
    await control.refresh()
    assert control.details("web", 1) is None, "the active one may have very many"
    control.switch("web", None)
    with trio.fail_after(PATIENCE):
        while not (found := control.details("web", 1)) or not found["received_bytes"]:
            await control.refresh()
    assert (found["received_bytes"], found["sent_bytes"]) == (5, 2)
    assert 0 <= found["least_idle"] <= found["most_idle"] < PATIENCE


# Another control process.


async def test_while_control_is_away_clients_are_steered_and_the_next_one_goes_on(
    here, kernel, control, crowd, monkeypatch
) -> None:
    backend = await start(here, "v1", "twice")
    made = await steer(control, 1, backend)
    client = crowd.greeted()
    kernel.die(control)
    later = [crowd.greeted() for _ in range(5)]
    assert {each.greeting for each in later} == {"v1"}
    again = kernel.control()
    again.find()
    assert again.has("web", 1)
    assert (await again.look("web", 1)).live == 6
    written = []
    set_slot = SteerTable.set_slot
    monkeypatch.setattr(SteerTable, "set_slot", lambda self, *args: (written.append(args[1]), set_slot(self, *args)))
    assert again.take_up("web", [PUBLIC]) == ""
    assert await again.arrange("web", made) == ""
    again.switch("web", 1)
    assert [each.count4 for each in written] == [2], "at no moment it seems to have no sockets"
    await again.refresh()
    assert (kernel.counts(1).active, kernel.counts(1).steered) == (6, 6)
    again.forget_others([("web", 1)], ["web"])
    assert crowd.words() == {"v1"}
    again.switch("web", None)
    with trio.fail_after(PATIENCE):
        for each in (client, *later):
            each.close()
        await again.drained("web", 1, lambda _: None)


async def test_what_nobody_knows_any_more_is_forgotten(here, kernel, control, crowd, worker) -> None:
    await steer(control, 1, await start(here, "v1"))
    kernel.die(control)
    again = kernel.control()
    again.find()
    again.forget_others([], [])
    assert worker.gets(crowd.come())
    assert not again.has("web", 1)
    third = kernel.control()
    again._table.close()
    again._table = None
    third.find()
    assert not third._services
    assert not third._steered


async def test_a_process_that_died_before_its_program_was_pinned_is_replaced(here, kernel, control, crowd) -> None:
    """Else status would say that it steers, while nothing does."""
    assert control.take_up("web", [PUBLIC]) == ""
    kernel.die(control)
    (control.folder / "link").unlink()
    again = kernel.control()
    again.find()
    await steer(again, 1, await start(here, "v1"))
    assert crowd.words() == {"v1"}


async def test_a_link_that_is_not_at_work_any_more_is_replaced(here, kernel, control, crowd) -> None:
    await steer(control, 1, await start(here, "v1"))
    control._table._link.detach()
    kernel.die(control)
    again = kernel.control()
    again.find()
    await steer(again, 2, await start(here, "v2"))
    assert crowd.words() == {"v2"}


async def test_one_that_may_not_steer_takes_down_what_one_that_might_has_left(
    here, kernel, control, crowd, worker, monkeypatch
) -> None:
    """Else the kernel would go by maps that nobody brings up to date."""
    await steer(control, 1, await start(here, "v1"))
    kernel.die(control)
    lacking = capabilities.effective() & ~(1 << capabilities.Capability.NET_ADMIN)
    monkeypatch.setattr(capabilities, "effective", lambda: lacking)
    kernel.control().find()
    assert not control.folder.exists()
    assert worker.gets(crowd.come())


async def test_with_another_range_of_marks_those_in_use_are_not_given_twice(here, kernel, control) -> None:
    backend = await start(here, "v1")
    await steer(control, 1, backend)
    mark = control._steered["web", 1].mark
    kernel.die(control)
    again = kernel.control(marks=f"{mark:#x}-{mark + 15:#x}")
    again.find()
    for number in range(2, 16):
        assert await again.arrange("web", generation(number, backend)) == "", number
    assert len({each.mark for each in again._steered.values()}) == len(again._steered)


async def test_after_a_stop_nothing_is_left(here, control, crowd, worker) -> None:
    await steer(control, 1, await start(here, "v1"))
    assert any(control.folder.iterdir())
    control.remove()
    assert not control.folder.exists()
    assert worker.gets(crowd.come())


async def test_what_a_dead_proxy_with_another_state_folder_left_is_removed(here, kernel, control, crowd) -> None:
    backend, elsewhere = await start(here, "v1"), [Address(host="127.0.0.1", port=1)]
    await steer(control, 1, backend)
    kernel.die(control)
    kernel.control("other").remove_strangers(elsewhere)
    assert crowd.words() == {"v1"}, "all of that proxy is gone but its backend: it may be started again"
    await backend.stop(signal.SIGKILL, 0)
    kernel.control("other").remove_strangers(elsewhere)
    assert not control.folder.exists()


async def test_what_a_dead_proxy_left_does_not_get_the_clients_of_the_next_one(here, kernel, control, crowd) -> None:
    await steer(control, 1, await start(here, "v1"))
    kernel.die(control)
    with contextlib.closing(Worker()) as worker:  # it could be bound: so nobody else is there
        kernel.control("other").remove_strangers([Address(host="0.0.0.0", port=PORT)])
        assert worker.gets(crowd.come())


async def test_another_proxy_that_lives_is_left_alone(here, kernel, control, crowd, worker) -> None:
    await steer(control, 1, await start(here, "v1"))
    other = kernel.control("other")
    other.remove_strangers([Address(host="127.0.0.1", port=PORT + 1), Address(host="::1", port=PORT)])
    assert crowd.words() == {"v1"}


# Trouble.


async def test_maps_that_cannot_be_changed_are_not_gone_by_any_more(
    here, control, crowd, worker, monkeypatch, caplog
) -> None:
    """Else the kernel would send new connections to the old generation for ever."""
    await steer(control, 1, await start(here, "v1"))
    before = crowd.greeted()
    new = generation(2, await start(here, "v2", generation=2))
    assert await control.arrange("web", new) == ""
    monkeypatch.setattr(SteerTable, "set_service", fail(errno.EPERM))
    control.switch("web", 2)
    assert worker.gets(crowd.come())
    assert "steering is given up" in caplog.text
    assert control.take_up("web", [PUBLIC]).startswith("the kernel's maps cannot be changed")
    assert before.is_open()
    assert (await control.look("web", 1)).live == 1, "and it is still waited for"
    control.drop("web")
    control.forget("web", 1)
    control.remove()


@pytest.mark.parametrize("what", ["put_socket", "set_slot"])
async def test_a_backend_whose_sockets_are_not_taken_is_relayed(
    here, control, crowd, worker, monkeypatch, what
) -> None:
    assert control.take_up("web", [PUBLIC]) == ""
    with monkeypatch.context() as broken:
        broken.setattr(SteerTable, what, fail(errno.ENOMEM))
        made = generation(1, await start(here, "v1"))
        assert "Cannot allocate memory" in await control.arrange("web", made)
        control.switch("web", 1)
        assert not control.has("web", 1)
    assert worker.gets(crowd.come())


async def test_a_new_socket_that_is_not_taken_sends_all_to_the_worker(
    here, control, crowd, worker, monkeypatch
) -> None:
    made = await steer(control, 1, await start(here, "r0"), None)
    made.replicas[1] = SimpleNamespace(healthy=True, target=await start(here, "r1", replica=1))
    with monkeypatch.context() as broken:
        broken.setattr(SteerTable, "put_socket", fail(errno.ENOMEM))
        assert "Cannot allocate memory" in await control.arrange("web", made)
        assert worker.gets(crowd.come())
    assert await control.arrange("web", made) == ""
    assert crowd.words(50) == {"r0", "r1"}


async def test_a_kernel_that_does_not_tell_does_not_end_control(here, control, crowd, monkeypatch, caplog) -> None:
    made = await steer(control, 1, await start(here, "v1"))
    client = crowd.greeted()
    assert (await control.look("web", 1)).live == 1
    for module, name in (
        (inet_diag, "count"),
        (inet_diag, "connections"),
        (sock_diag, "tcp_listeners"),
    ):
        monkeypatch.setattr(module, name, fail(errno.EMFILE))
    assert (await control.look("web", 1)).live == 1, "as far as is known"
    await control.refresh()
    await control.refresh()
    assert caplog.text.count("connections cannot be counted") == 1
    assert not control.has_moved("web", 1)
    assert await control.close("web", 1) == 1, "it ends with the backend"
    assert "Too many open files" in await control.arrange("web", made)
    with trio.move_on_after(0.3) as limit:
        await control.drained("web", 1, lambda _: None)
    assert limit.cancelled_caught, "not knowing is no end of a drain"
    client.close()


async def test_connections_that_cannot_be_closed_are_counted_as_such(here, control, crowd, monkeypatch, caplog) -> None:
    await steer(control, 1, await start(here, "v1"))
    crowd.greeted()
    monkeypatch.setattr(inet_diag, "destroy", fail(errno.EOPNOTSUPP))
    assert await control.close("web", 1) == 1
    assert "end with the backend" in caplog.text


async def test_a_generation_that_ends_while_its_sockets_are_looked_for_gets_no_place(here, control) -> None:
    """It would have that for ever: it has been forgotten already."""
    made = generation(1, await start(here, "v1"))
    assert control.take_up("web", [PUBLIC]) == ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.arrange, "web", made)
        await trio.testing.wait_all_tasks_blocked()
        made.ended.set()
        control.forget("web", 1)
    assert not control.has("web", 1)


async def test_the_end_of_the_proxy_may_come_while_sockets_are_looked_for(here, control) -> None:
    made = generation(1, await start(here, "v1"))
    assert control.take_up("web", [PUBLIC]) == ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.arrange, "web", made)
        await trio.testing.wait_all_tasks_blocked()
        control.remove()
    assert not control.folder.exists()


async def test_a_dead_backends_queue_is_nobodys(here, control, crowd) -> None:
    """A copy of its socket that stayed open here would keep clients waiting who nobody serves."""
    backend = await start(here, "v1")
    await steer(control, 1, backend)
    await backend.stop(signal.SIGKILL, 0)
    assert not sock_diag.tcp_listeners(backend.address.port)
    with pytest.raises(ConnectionRefusedError):
        crowd.come()


async def test_a_mark_is_used_again_as_late_as_can_be(here, kernel) -> None:
    """The host's firewall may look at it for some time."""
    backend, control = await start(here, "v1"), kernel.control()
    assert control.take_up("web", [PUBLIC]) == ""
    marks = []
    for number in range(1, SLOTS):
        assert await control.arrange("web", generation(number, backend)) == ""
        marks.append(control._steered["web", number].mark)
        control.forget("web", number)
    assert len(set(marks)) == SLOTS - 1
