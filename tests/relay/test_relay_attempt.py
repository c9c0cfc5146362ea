"""An attempt to connect: what counts as success, and what its failure is called."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from proxy.relay.attempt import Attempt
from proxy.relay.generation import Endpoint, Generation


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ENOENT, "refused"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EADDRNOTAVAIL, "other"),
        (errno.EMFILE, "other"),
    ],
)
def test_failures_are_counted_under_few_names(error: int, reason: str) -> None:
    generation = Generation(1)
    attempt = Attempt(Endpoint("127.0.0.1:1"), generation)
    attempt.failed(error)
    attempt.sock.close()
    assert generation.counts().connect_errors == {reason: 1}


def test_a_socket_that_met_itself_is_not_a_backend() -> None:
    """Else a proxy that retries takes the very port that its backend is about to listen on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    attempt = Attempt(Endpoint(f"{host}:{port}"), Generation(1))
    attempt.sock.bind((host, port))
    assert attempt.connect() == errno.ECONNREFUSED
    attempt.sock.close()
    with socket.create_server((host, port), reuse_port=False):
        pass


def test_an_attempt_counts_for_its_endpoint_until_it_is_withdrawn() -> None:
    endpoint = Endpoint("127.0.0.1:1")
    attempt = Attempt(endpoint, Generation(1))
    assert endpoint.connections == 1
    attempt.withdraw()
    attempt.sock.close()
    assert endpoint.connections == 0


def test_connecting_on_this_machine_is_through_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt = Attempt(Endpoint(f"127.0.0.1:{server.getsockname()[1]}"), Generation(1))
        error = attempt.connect()
        attempt.sock.close()
    assert error in (0, errno.EALREADY), os.strerror(error)
