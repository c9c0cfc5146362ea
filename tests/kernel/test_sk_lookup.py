"""Real connections, in a network namespace of each test's own, so that nothing of the machine is steered."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.kernel import bpf, bpffs, sk_lookup
from proxy.kernel.bpf import AttachType, BpfError, Link, Map
from proxy.kernel.sk_lookup import Counts, Maps, ServiceEntry, Slot
from tests.isolation import NAMESPACE, bpf_file_system, need_bpf, network_namespace
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = socket.AF_INET, socket.AF_INET6
PORT = 8080  # the public port; the sockets behind it have ports of their own
MARK = 0x5A000001


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    need_bpf()
    with network_namespace():
        yield


@pytest.fixture
def maps() -> Iterator[Maps]:
    with sk_lookup.make_maps() as maps, sk_lookup.attach(maps, namespace=NAMESPACE):
        yield maps


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Sockets are entered here, and closed in the end."""
    with contextlib.ExitStack() as stack:
        yield stack


def listener(stack: contextlib.ExitStack, address: str = "127.0.0.1", port: int = 0, **options: bool) -> socket.socket:
    family = V6 if ":" in address else V4
    return stack.enter_context(socket.create_server((address, port), family=family, backlog=512, **options))


def publish(maps: Maps, family: int, address: str, service: int = 0, port: int = PORT) -> None:
    maps.listeners.update(sk_lookup.listener_key(family, address, port), sk_lookup.index(service))


def offer(maps: Maps, slot: int, *sockets: socket.socket, family: int = V4) -> None:
    """Make the sockets those of the slot, for connections of one family."""
    for position, each in enumerate(sockets):
        key = sk_lookup.index(sk_lookup.socket_index(slot, family, position))
        maps.sockets.update(key, sk_lookup.socket_value(each.fileno()))
    before = Slot.unpack(maps.slots.lookup(sk_lookup.index(slot)) or b"")
    counts = {"count4" if family == V4 else "count6": len(sockets)}
    maps.slots.update(sk_lookup.index(slot), before._replace(generation=slot, mark=MARK, **counts).pack())


def switch(maps: Maps, slot: int, service: int = 0) -> None:
    maps.services.update(sk_lookup.index(service), ServiceEntry(slot, "web").pack())


def counts(maps: Maps, slot: int) -> Counts:
    return Counts.unpack(maps.counters.lookup(sk_lookup.index(slot)) or b"")


def connect(address: str = "127.0.0.1", port: int = PORT) -> socket.socket:
    return socket.create_connection((address, port), timeout=5)


def accepted_by(*listeners: socket.socket) -> socket.socket:
    """Wait for one connection, and take it; the listener that it came to."""
    ready, _, _ = select.select(listeners, [], [], 5)
    (one,) = ready
    connection, _ = one.accept()
    connection.close()
    return one


def visits(address: str, times: int, *listeners: socket.socket) -> list[int]:
    """Connect that often, one after the other; how many connections came to each of the listeners."""
    found: Counter[socket.socket] = Counter()
    for _ in range(times):
        with connect(address):
            found[accepted_by(*listeners)] += 1
    return [found[each] for each in listeners]


@pytest.mark.parametrize("published", ["0.0.0.0", "127.0.0.1"])
def test_a_client_of_the_public_port_reaches_the_backends_own_socket(published, maps, stack) -> None:
    backend, fallback = listener(stack), listener(stack, port=PORT)
    publish(maps, V4, published)
    offer(maps, 1, backend)
    switch(maps, 1)
    with connect() as client:
        assert accepted_by(backend, fallback) is backend
        assert client.getpeername() == ("127.0.0.1", PORT)
    assert counts(maps, 1) == Counts(1, 0)


@pytest.mark.parametrize("published", ["::", "::1"])
def test_ipv6_is_steered_too(published, maps, stack) -> None:
    backend, fallback = listener(stack, "::1"), listener(stack, "::1", PORT)
    publish(maps, V6, published)
    offer(maps, 1, backend, family=V6)
    switch(maps, 1)
    assert visits("::1", 3, backend, fallback) == [3, 0]
    assert counts(maps, 1) == Counts(3, 0)


def test_one_socket_for_both_families_takes_the_clients_of_both(maps, stack) -> None:
    backend = listener(stack, "::", dualstack_ipv6=True)
    for family, address in ((V4, "0.0.0.0"), (V6, "::")):
        publish(maps, family, address)
        offer(maps, 1, backend, family=family)
    switch(maps, 1)
    for address, seen in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
        with connect(address):
            connection, peer = backend.accept()
            connection.close()
            assert peer[0] == seen
    assert counts(maps, 1) == Counts(2, 0)


def test_a_socket_of_the_wrong_family_is_passed_over_and_the_listener_underneath_gets_the_client(maps, stack) -> None:
    backend, fallback = listener(stack, "::1"), listener(stack, port=PORT)  # the first for IPv6 alone
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, backend)
    switch(maps, 1)
    assert visits("127.0.0.1", 2, backend, fallback) == [0, 2]
    assert counts(maps, 1) == Counts(0, 2)


def test_services_on_two_addresses_with_the_same_port_are_kept_apart(maps, stack) -> None:
    one, two, everywhere = listener(stack), listener(stack), listener(stack)
    for service, (address, backend) in enumerate([("127.0.0.2", one), ("127.0.0.3", two), ("0.0.0.0", everywhere)]):
        publish(maps, V4, address, service)
        offer(maps, service + 1, backend)
        switch(maps, service + 1, service)
    for place, address in enumerate(["127.0.0.2", "127.0.0.3", "127.0.0.4"]):
        expected = [0, 0, 0]
        expected[place] = 2
        assert visits(address, 2, one, two, everywhere) == expected
    assert [counts(maps, slot).steered for slot in (1, 2, 3)] == [2, 2, 2]


def test_a_port_of_somebody_else_and_the_same_port_elsewhere_are_left_alone(maps, stack) -> None:
    backend, bystander, elsewhere = listener(stack), listener(stack), listener(stack, "127.0.0.2", PORT)
    publish(maps, V4, "127.0.0.1")
    offer(maps, 1, backend)
    switch(maps, 1)
    with connect(port=bystander.getsockname()[1]):
        assert accepted_by(backend, bystander, elsewhere) is bystander
    with connect("127.0.0.2"):
        assert accepted_by(backend, bystander, elsewhere) is elsewhere
    with pytest.raises(ConnectionRefusedError):
        connect(port=PORT + 1)
    assert counts(maps, 1) == Counts(0, 0)


def test_clients_are_spread_over_all_sockets_of_a_generation(maps, stack) -> None:
    backends = [listener(stack) for _ in range(4)]
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, *backends)
    switch(maps, 1)
    found = visits("127.0.0.1", 200, *backends)
    assert sum(found) == 200
    assert min(found) > 20
    assert counts(maps, 1) == Counts(200, 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_handshake_with_a_syn_cookie_ends_at_the_socket_that_gave_the_cookie(address, maps, stack) -> None:
    # As in a flood: nothing is remembered of a handshake, and its end is looked up as its beginning was.
    Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("2")
    family = V6 if ":" in address else V4
    backends = [listener(stack, address) for _ in range(4)]
    publish(maps, family, "::" if family == V6 else "0.0.0.0")
    offer(maps, 1, *backends, family=family)
    switch(maps, 1)
    assert sum(visits(address, 50, *backends)) == 50
    assert counts(maps, 1) == Counts(100, 0)


def test_a_dead_socket_is_passed_over_as_long_as_another_lives(maps, stack) -> None:
    dead, alive, fallback = listener(stack), listener(stack), listener(stack, port=PORT)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, dead, alive)
    switch(maps, 1)
    dead.close()
    assert visits("127.0.0.1", 10, alive, fallback) == [10, 0]
    assert counts(maps, 1) == Counts(10, 0)


def test_a_socket_that_stopped_listening_swallows_nobody(maps, stack) -> None:
    backend, fallback = listener(stack), listener(stack, port=PORT)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, backend)
    switch(maps, 1)
    assert visits("127.0.0.1", 1, backend, fallback) == [1, 0]
    backend.shutdown(socket.SHUT_RDWR)
    assert visits("127.0.0.1", 2, fallback) == [2]
    assert counts(maps, 1) == Counts(1, 2)


def test_without_a_socket_the_listener_underneath_gets_the_client_and_it_is_counted(maps, stack) -> None:
    backend, fallback = listener(stack), listener(stack, port=PORT)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, backend)
    switch(maps, 1)
    backend.close()
    assert visits("127.0.0.1", 2, fallback) == [2]
    offer(maps, 1)  # no socket at all, as before a backend listens
    assert visits("127.0.0.1", 1, fallback) == [1]
    assert counts(maps, 1) == Counts(0, 3)
    back = listener(stack)
    offer(maps, 1, back)
    assert visits("127.0.0.1", 1, back, fallback) == [1, 0]


@pytest.mark.parametrize("current", [0, 300])
def test_a_service_with_no_generation_is_the_ordinary_listeners(current, maps, stack) -> None:
    backend, fallback = listener(stack), listener(stack, port=PORT)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, backend)
    switch(maps, current)
    assert visits("127.0.0.1", 2, backend, fallback) == [0, 2]
    assert counts(maps, 1) == Counts(0, 0)


def test_of_sockets_that_share_a_port_the_one_of_the_current_generation_is_taken(maps, stack) -> None:
    old = listener(stack, reuse_port=True)
    new = listener(stack, port=old.getsockname()[1], reuse_port=True)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, old)
    offer(maps, 2, new)
    switch(maps, 1)
    assert visits("127.0.0.1", 20, old, new) == [20, 0]
    switch(maps, 2)
    assert visits("127.0.0.1", 20, old, new) == [0, 20]


def test_every_connection_has_the_mark_of_its_generation(maps, stack) -> None:
    backend = listener(stack)
    backend.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, backend)
    switch(maps, 1)
    with connect():
        connection, _ = backend.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == MARK


def test_an_open_connection_stays_where_it_is_when_others_go_elsewhere(maps, stack) -> None:
    old, new = listener(stack), listener(stack)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, old)
    offer(maps, 2, new)
    switch(maps, 1)
    with connect() as client:
        connection, _ = old.accept()
        switch(maps, 2)
        old.close()
        with connection:
            client.sendall(b"ping")
            assert connection.recv(10) == b"ping"
        assert visits("127.0.0.1", 1, new) == [1]


def test_datagrams_to_the_same_port_are_left_alone(maps, stack) -> None:
    backend = listener(stack)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, backend)
    switch(maps, 1)
    receiver = stack.enter_context(socket.socket(V4, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", PORT))
    receiver.settimeout(5)
    sender = stack.enter_context(socket.socket(V4, socket.SOCK_DGRAM))
    sender.sendto(b"datagram", ("127.0.0.1", PORT))
    assert receiver.recv(100) == b"datagram"
    assert counts(maps, 1) == Counts(0, 0)


class Storm:
    """Clients that connect as fast as they can, and know which generation may answer."""

    def __init__(self) -> None:
        self.epoch = 0  # odd while it changes; in epochs 0, 4, 8 … the first generation answers, else the second
        self.checked: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.over = False  # for clients …
        self.closed = False  # … and, when they all have left, for servers

    def client(self) -> None:
        while not self.over:
            before = self.epoch
            try:
                with connect() as client:
                    answer = client.recv(1)
            except OSError as error:
                self.wrong.append(repr(error))
                return
            if before == self.epoch and before % 2 == 0:
                self.checked[before] += 1
                if answer != (b"1" if before % 4 == 0 else b"2"):
                    self.wrong.append(f"{answer!r} in epoch {before}")

    def server(self, listener: socket.socket, name: bytes) -> None:
        while not self.closed:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(name)


def test_after_one_update_no_client_of_a_storm_reaches_the_old_generation_and_none_is_refused(maps, stack) -> None:
    first, second = listener(stack), listener(stack)
    publish(maps, V4, "0.0.0.0")
    offer(maps, 1, first)
    offer(maps, 2, second)
    switch(maps, 1)
    storm = Storm()
    clients = [threading.Thread(target=storm.client) for _ in range(4)]
    servers = [threading.Thread(target=storm.server, args=each) for each in ((first, b"1"), (second, b"2"))]
    for thread in clients + servers:
        thread.start()
    try:
        for step in range(50):
            storm.epoch += 1
            switch(maps, 1 if step % 2 else 2)
            storm.epoch += 1
            while storm.checked[storm.epoch] < 20 and not storm.wrong:
                os.sched_yield()
    finally:
        storm.over = True
        for client in clients:
            client.join(10)
        storm.closed = True
        for slot in (1, 2):  # one connection more for each, that ends its thread
            switch(maps, slot)
            connect().close()
        for server in servers:
            server.join(10)
    assert storm.wrong == []


# Makes maps, attaches, pins both in argv[1], and is killed.
MAKER = """
import os, signal, sys
from pathlib import Path
from proxy.kernel import bpffs, sk_lookup
folder = Path(sys.argv[1])
maps = sk_lookup.make_maps()
maps.services.update(sk_lookup.index(3), sk_lookup.ServiceEntry(1, "web").pack())
key = sk_lookup.listener_key(2, "0.0.0.0", 8080)
maps.listeners.update(key, sk_lookup.index(3))
maps.pin(folder)
sk_lookup.attach(maps).pin(folder / "link")
os.kill(os.getpid(), signal.SIGKILL)
"""


def program_of(folder: Path) -> int:
    with Link.open(folder / "link") as link:
        return link.info().program


def test_steering_goes_on_after_the_process_that_began_it_has_died_until_it_is_taken_down(stack) -> None:
    backend, fallback = listener(stack), listener(stack, port=PORT)
    with bpf_file_system() as root:
        folder = root / "proxyctl"
        done = subprocess.run([sys.executable, "-c", MAKER, str(folder)], check=False, pass_fds=[int(root.name)])
        assert done.returncode == -signal.SIGKILL
        with Maps.open(folder) as maps, Link.open(folder / "link") as link:
            assert ServiceEntry.unpack(maps.services.lookup(sk_lookup.index(3)) or b"") == ServiceEntry(1, "web")
            assert [sk_lookup.parse_listener_key(each) for each in maps.listeners] == [(V4, "0.0.0.0", PORT)]
            assert link.info().namespace == os.stat(NAMESPACE).st_ino
            assert link.info().attach_type == AttachType.SK_LOOKUP
            offer(maps, 1, backend)
        assert program_of(folder) in bpf.programs(sk_lookup.PROGRAM)
        assert visits("127.0.0.1", 2, backend, fallback) == [2, 0]
        with Maps.open(folder) as maps:
            assert counts(maps, 1) == Counts(2, 0)
        program = program_of(folder)
        with Link.open(folder / "link") as link:
            link.detach()
        bpffs.remove_folder(folder)
        assert visits("127.0.0.1", 2, backend, fallback) == [0, 2]
        deadline = time.monotonic() + 10
        while program in bpf.programs(sk_lookup.PROGRAM):  # the kernel tells nobody when the last of a pin is gone
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_link_that_is_detached_steers_nobody_whoever_holds_it(stack) -> None:
    backend, fallback = listener(stack), listener(stack, port=PORT)
    with sk_lookup.make_maps() as maps, sk_lookup.attach(maps, namespace=NAMESPACE) as link:
        publish(maps, V4, "0.0.0.0")
        offer(maps, 1, backend)
        switch(maps, 1)
        assert visits("127.0.0.1", 1, backend, fallback) == [1, 0]
        link.detach()
        assert visits("127.0.0.1", 1, backend, fallback) == [0, 1]
        assert link.info().namespace == 0


def test_another_network_namespace_can_be_steered_and_only_that_one(stack) -> None:
    here, backend_here = listener(stack, port=PORT), listener(stack)
    outside = os.open(NAMESPACE, os.O_RDONLY)
    stack.callback(os.close, outside)
    with network_namespace(), sk_lookup.make_maps() as maps:
        backend, fallback = listener(stack), listener(stack, port=PORT)
        publish(maps, V4, "0.0.0.0")
        offer(maps, 1, backend)
        switch(maps, 1)
        with sk_lookup.attach(maps, namespace=f"/proc/self/fd/{outside}"):
            assert visits("127.0.0.1", 1, backend, fallback) == [0, 1]
        with sk_lookup.attach(maps, namespace=NAMESPACE):
            assert visits("127.0.0.1", 1, backend, fallback) == [1, 0]
    assert visits("127.0.0.1", 1, here, backend_here) == [1, 0]


def test_two_capabilities_are_all_that_steering_needs() -> None:
    setpriv = need("setpriv", package="util-linux")
    program = "from proxy.kernel import sk_lookup\nprint(sk_lookup.attach(sk_lookup.make_maps()).info().attach_type)"
    limited = [setpriv, "--bounding-set=-all,+cap_39,+net_admin"]  # 39 is CAP_BPF: old ones do not know its name
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*limited, sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("36\n", "")


def test_pinned_maps_are_for_their_owner_alone_and_pinned_whole_or_not_at_all() -> None:
    with bpf_file_system() as root, sk_lookup.make_maps() as maps:
        folder = root / "one"
        maps.pin(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert sorted(each.name for each in folder.iterdir()) == [
            "counters",
            "listeners",
            "services",
            "slots",
            "sockets",
        ]
        (folder / "listeners").unlink()
        (folder / "services").unlink()
        with pytest.raises(BpfError, match="slots: File exists"):
            maps.pin(folder)
        assert sorted(each.name for each in folder.iterdir()) == ["counters", "slots", "sockets"]


def test_maps_of_another_layout_are_not_taken_for_ours() -> None:
    with bpf_file_system() as root, sk_lookup.make_maps() as maps:
        maps.pin(root / "one")
        (root / "one" / "slots").unlink()
        with pytest.raises(BpfError) as caught:
            Maps.open(root / "one")
        assert caught.value.errno == errno.ENOENT
        with Map.create(bpf.MapType.ARRAY, 4, 16, sk_lookup.SLOTS, name="slots") as other:
            other.pin(root / "one" / "slots")
        with pytest.raises(BpfError, match=r"one/slots, which is a map of another layout"):
            Maps.open(root / "one")


def test_what_a_failed_open_or_attach_had_opened_is_closed_again() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with bpf_file_system() as root, sk_lookup.make_maps() as maps:
        maps.pin(root / "one")
        (root / "one" / "sockets").unlink()
        with pytest.raises(BpfError):
            Maps.open(root / "one")
        with pytest.raises(BpfError, match="cannot attach the program"):
            sk_lookup.attach(maps, namespace="/proc/self/ns/uts")
    assert sorted(os.listdir("/proc/self/fd")) == before
