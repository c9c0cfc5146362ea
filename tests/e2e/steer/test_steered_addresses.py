"""Which connections are steered to whom: by family, address and port, and nobody else's."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import Load, eventually, fetch, free_port
from tests.e2e.steer.clients import Standing
from tests.e2e.steer.elsewhere import bystander
from tests.e2e.steer.harness import Steered, service
from tests.e2e.steer.kernel import marked
from tests.e2e.steer.servers import many
from tests.e2e.steer.shared import steered_by

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.shared import Shared

PUBLIC = {
    "specific": ("127.0.0.1", "[::1]"),
    "wildcards": ("0.0.0.0", "[::]"),
    "wildcard": ("[::]",),
}
PRIVATE = {"two_sockets": many("--host=127.0.0.1", "--host=::1"), "one_for_both": many("--host=::", "--dual")}
shared = steered_by(
    four_alone={"hosts": PUBLIC["wildcards"]},
    **{
        f"{name}_{sockets}": {"hosts": hosts, "v1": version, "v2": version}
        for name, hosts in PUBLIC.items()
        for sockets, version in PRIVATE.items()
    },
)


def test_services_on_two_addresses_with_one_port_and_on_another_port_each_get_their_own(tmp_path: Path) -> None:
    port, other, foreign = free_port(), free_port(), free_port()
    hosts = {"one": "127.0.0.1", "two": "127.0.0.2"}
    config = "".join(service(f"{host}:{port}", name=name) for name, host in hosts.items())
    config += service(other, name="three", v1=many(replicas=2))
    with Steered(tmp_path, config) as proxy, bystander(foreign), bystander(port, host="127.0.0.3"):
        pids = {name: set(map(str, proxy.pids(name))) for name in ("one", "two", "three")}
        at = {"one": ("127.0.0.1", port), "two": ("127.0.0.2", port), "three": ("127.0.0.1", other)}
        for name, (host, number) in at.items():
            answers = {fetch(number, host=host).split()[3] for _ in range(20)}
            assert answers == pids[name], "each replica has some"
            proxy.assert_steered(name)
            assert proxy.counts(name) == (20, 0)
        # Whoever is not ours, on the same port or with the same program in the way, is left alone.
        assert fetch(port, host="127.0.0.3").startswith("- ")
        assert fetch(foreign).startswith("- ")

        with Standing(port, 10, host="127.0.0.2") as clients:
            assert proxy.operate("swap", "one", version="v2", deadline="300ms")["forced"] == 0
            assert fetch(port).startswith("v2 2 ")
            assert fetch(port, host="127.0.0.2").startswith("v1 1 ")
            clients.ask()
            assert proxy.operate("swap", "two", version="v3", deadline="300ms")["forced"] == 10
        assert fetch(port).startswith("v2 2 ")


@pytest.mark.parametrize("public", PUBLIC)
@pytest.mark.parametrize("private", PRIVATE)
def test_ipv4_and_ipv6(shared: Shared, public: str, private: str) -> None:
    proxy, port = shared(f"{public}_{private}")
    proxy.assert_steered()
    hosts = [{"[::1]": "::1", "[::]": "::1"}.get(host, "127.0.0.1") for host in PUBLIC[public]]
    with Standing(port, 10, host=hosts[0]) as first, Standing(port, 10, host=hosts[-1]) as last:
        assert marked(port) == 20
        assert proxy.counts() == (20, 0)
        assert proxy.active()["connections"] == 20
        assert proxy.operate("swap", version="v2", deadline="300ms")["forced"] == 20
        assert first.ended() == last.ended() == 10
    for host in hosts:
        assert fetch(port, host=host).startswith("v2 2 ")


def test_ipv6_clients_of_a_backend_that_has_ipv4_alone_are_relayed_and_drained_too(shared: Shared) -> None:
    proxy, port = shared("four_alone")
    with Standing(port, 5) as four, Standing(port, 5, host="::1") as six:
        assert marked(port) == 5
        assert proxy.counts() == (5, 5)
        assert proxy.active()["connections"] == 10
        assert proxy.operate("swap", version="v2", deadline="300ms")["forced"] == 10
        assert four.ended() == six.ended() == 5


def test_addresses_come_and_go_by_a_reload_and_who_is_connected_stays(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    both = [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
    with Steered(tmp_path, service(first)) as proxy, Standing(first, 5) as clients, Load(first, 2) as load:
        proxy.write(service(both))
        proxy.ok("reload")
        load.wait_for(10)
        load.stop()
        assert not load.errors
        with Standing(second, 5) as others:
            assert marked(second) == 5
            proxy.write(service(second))
            proxy.ok("reload")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", first))
            clients.ask()
            others.ask()
            eventually(lambda: proxy.active()["connections"] == 10, what="all are counted")
            ended = proxy.operate("swap", version="v2", deadline="300ms")
            assert (ended["drained"], ended["forced"]) == (0, 10)
            assert clients.ended() == others.ended() == 5


def test_a_reload_from_relay_to_steer_and_back_loses_nobody(tmp_path: Path) -> None:
    port = free_port()
    steer = service(port)
    relay = steer.replace('datapath = "steer"', "")
    with Steered(tmp_path, relay) as proxy, Standing(port, 5) as relayed, Load(port, 2) as load:
        proxy.write(steer)
        proxy.ok("reload")
        proxy.wait_steered(port)
        proxy.assert_steered()
        with Standing(port, 5) as steered:
            assert marked(port) >= 5
            proxy.write(relay)
            proxy.ok("reload")
            assert proxy.service()["datapath"] == "relay"
            load.wait_for(10)
            load.stop()
            assert not load.errors
            relayed.ask()
            steered.ask()
            before = proxy.counts()[0]
            fetch(port)
            assert proxy.counts()[0] == before
            ended = proxy.operate("swap", version="v2", deadline="300ms")
            assert ended["forced"] == 10
            assert relayed.ended() == steered.ended() == 5
