from __future__ import annotations

import socket

import pytest

from proxy.control.ports import Ports, is_free
from proxy.errors import StartError


def a_free_port() -> int:
    """Outside the range that outgoing connections use."""
    return Ports().take()


def test_a_port_is_not_handed_out_twice_until_it_is_released() -> None:
    one, two = a_free_port(), a_free_port()
    ports = Ports([one, two])
    assert {ports.take(), ports.take()} == {one, two}
    with pytest.raises(StartError, match="all 2 private ports"):
        ports.take()
    ports.release(one)
    assert ports.take() == one


def test_a_released_port_rests_before_it_is_used_again() -> None:
    one, two = a_free_port(), a_free_port()
    ports = Ports([one, two])
    ports.release(ports.take())
    assert ports.take() == two


def test_a_port_that_a_backend_of_an_earlier_run_has_is_left_to_it() -> None:
    one, two = a_free_port(), a_free_port()
    ports = Ports([one, two])
    ports.claim(one)
    assert ports.take() == two


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
)
@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_port_where_something_stale_listens_is_passed_over(
    family: socket.AddressFamily, host: str, option: int | None
) -> None:
    one, two = a_free_port(), a_free_port()
    with socket.socket(family) as stale:
        if option:
            stale.setsockopt(socket.SOL_SOCKET, option, 1)
        stale.bind((host, one))
        stale.listen()
        assert Ports([one, two]).take() == two


def test_a_port_whose_last_connections_still_linger_is_passed_over() -> None:
    port = a_free_port()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()  # the side that closes first keeps the port in TIME_WAIT
            client.recv(1)
    assert not is_free(port)


def test_private_ports_lie_where_no_outgoing_connection_takes_one() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = map(int, file.read().split())
    if low <= 20000 and high >= 31999:
        pytest.skip("this machine gives outgoing connections every port there is")
    assert not low <= a_free_port() <= high


def test_ports_an_administrator_reserved_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.control.ports._reserved", lambda: set(range(20000, 31998)))
    assert Ports().take() in {31998, 31999}
