from __future__ import annotations

import errno
import importlib
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay import transfer
from proxy.relay.connection import reset_on_close
from tests.tools import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4096


class Plain:
    """What runs where nothing could be compiled."""

    Buffer, send, handle_of = (
        transfer.PlainBuffer,
        staticmethod(transfer.plain_send),
        staticmethod(transfer.plain_handle),
    )


@pytest.fixture(params=["plain", "compiled"], scope="module")
def kind(request: pytest.FixtureRequest) -> Any:
    if request.param == "plain":
        return Plain
    try:
        return importlib.import_module("proxy.relay._transfer")
    except ImportError:
        missing("the relay was not compiled: pip install -e . with a C compiler (apt-get install gcc python3-dev)")


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            yield one, other


def arrived(sock: socket.socket) -> None:
    """Wait until there is something to read."""
    sock.settimeout(10)
    sock.recv(1, socket.MSG_PEEK)


def test_what_is_read_is_sent_on_and_counted(kind: Any) -> None:
    buffer = kind.Buffer(SIZE)
    with pair() as (client, source), pair() as (sink, backend):
        client.sendall(b"hello")
        arrived(source)
        assert buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, SIZE) == 5
        assert backend.recv(100) == b"hello"


def test_more_than_a_buffer_takes_several_reads_and_stays_in_order(kind: Any) -> None:
    buffer = kind.Buffer(SIZE)
    data = os.urandom(2 * SIZE + 100)
    with pair() as (client, source), pair() as (sink, backend):
        client.sendall(data)
        received, sizes = b"", []
        while len(received) < len(data):
            arrived(source)
            sizes.append(
                buffer.forward(kind.handle_of(source), kind.handle_of(sink), transfer.MORE * (len(sizes) > 1), SIZE)
            )
            received += backend.recv(sizes[-1], socket.MSG_WAITALL)
    assert received == data
    assert max(sizes) <= SIZE


def test_nothing_to_read_is_no_exception(kind: Any) -> None:
    buffer = kind.Buffer(SIZE)
    with pair() as (_, source), pair() as (sink, _):
        source.setblocking(True)  # it is not waited for, whatever the socket is set to
        assert buffer.receive(kind.handle_of(source), SIZE) == -errno.EAGAIN
        assert buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, SIZE) == -errno.EAGAIN


def test_the_end_of_a_stream_is_zero(kind: Any) -> None:
    buffer = kind.Buffer(SIZE)
    with pair() as (client, source), pair() as (sink, _):
        client.shutdown(socket.SHUT_WR)
        source.settimeout(10)
        assert source.recv(1, socket.MSG_PEEK) == b""
        assert buffer.receive(kind.handle_of(source), SIZE) == 0
        assert buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, SIZE) == 0


def test_a_reset_is_told_apart_from_an_end(kind: Any) -> None:
    buffer = kind.Buffer(SIZE)
    with pair() as (client, source), pair() as (sink, _):
        reset_on_close(client)  # type: ignore[arg-type]
        client.close()
        source.settimeout(10)
        assert buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, SIZE) == -errno.ECONNRESET


def test_what_a_full_sink_does_not_take_is_said_and_still_there(kind: Any) -> None:
    buffer = kind.Buffer(SIZE)
    with pair() as (client, source), pair() as (sink, backend):
        sink.setblocking(False)
        filled = 0
        while (sent := kind.send(kind.handle_of(sink), b"x" * 65536, 0)) > 0:
            filled += sent
        assert sent == -errno.EAGAIN
        client.sendall(b"late")
        arrived(source)
        assert buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, SIZE) == transfer.SHORT
        assert (buffer.received, max(buffer.sent, 0)) == (4, 0)
        assert bytes(buffer.view[:4]) == buffer.take(4) == b"late"
        backend.settimeout(10)
        while filled:
            filled -= len(backend.recv(min(filled, 65536)))


def test_a_sink_that_is_gone_says_so_and_ends_nobody(kind: Any) -> None:
    """No SIGPIPE, and what was read is still counted."""
    buffer = kind.Buffer(SIZE)
    with pair() as (client, source), pair() as (sink, backend):
        reset_on_close(backend)  # type: ignore[arg-type]
        backend.close()
        client.sendall(b"late")
        arrived(source)
        sink.settimeout(10)
        with pytest.raises(ConnectionResetError):
            sink.recv(1)
        assert buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, SIZE) == transfer.SHORT
        assert (buffer.received, buffer.sent) == (4, -errno.EPIPE)


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"more bytes")[5:]])
def test_anything_with_bytes_can_be_sent(kind: Any, data: Any) -> None:
    with pair() as (one, other):
        assert kind.send(kind.handle_of(one), data, 0) == 5
        assert other.recv(100) == b"bytes"


def test_the_last_bytes_wait_for_what_comes_next_if_asked_to(kind: Any) -> None:
    with pair() as (one, other):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert kind.send(kind.handle_of(one), b"a", transfer.MORE) == 1
        assert kind.send(kind.handle_of(one), b"b", 0) == 1
        other.settimeout(10)
        assert other.recv(100) == b"ab"


@given(data=st.binary(min_size=1, max_size=200), size=st.integers(1, 100))
def test_no_byte_is_lost_however_little_is_read_at_a_time(kind: Any, data: bytes, size: int) -> None:
    buffer = kind.Buffer(200)
    (client, source), (sink, backend) = socket.socketpair(), socket.socketpair()
    with client, source, sink, backend:
        client.sendall(data)
        moved = 0
        while (result := buffer.forward(kind.handle_of(source), kind.handle_of(sink), 0, size)) > 0:
            moved += result
        assert result == -errno.EAGAIN
        assert moved == len(data)
        assert backend.recv(1000) == data


def test_what_makes_no_sense_is_an_error_and_not_a_crash(kind: Any) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match="room"):
            kind.Buffer(size)
    with pytest.raises(TypeError):
        kind.Buffer("4096")
    with pytest.raises((TypeError, AttributeError)):
        kind.Buffer(SIZE).receive("stdin", SIZE)
    with pytest.raises((TypeError, AttributeError)):
        kind.send(None, b"", 0)
    with pytest.raises(TypeError):
        kind.Buffer(SIZE).forward()
    with pair() as (one, _):
        for limit in (-1, SIZE + 1):
            with pytest.raises(ValueError, match="buffer"):
                kind.Buffer(SIZE).receive(kind.handle_of(one), limit)
            with pytest.raises(ValueError, match="buffer"):
                kind.Buffer(SIZE).forward(kind.handle_of(one), kind.handle_of(one), 0, limit)
    with pytest.raises(ValueError, match="not so much"):
        kind.Buffer(SIZE).take(SIZE + 1)


def test_a_closed_connection_never_writes_into_somebody_elses() -> None:
    """Its number may be another's by then; so what is closed goes by NOBODY."""
    buffer = transfer.Buffer(SIZE)
    assert buffer.receive(transfer.NOBODY, SIZE) == -errno.EBADF
    assert transfer.send(transfer.NOBODY, b"x", 0) == -errno.EBADF
    with pair() as (client, source):
        client.sendall(b"x")
        arrived(source)
        assert buffer.forward(transfer.handle_of(source), transfer.NOBODY, 0, SIZE) == transfer.SHORT
        assert buffer.sent == -errno.EBADF


def test_the_pure_form_can_be_asked_for() -> None:
    code = "from proxy.relay import transfer; print(transfer.IS_COMPILED, transfer.Buffer.__name__)"
    pure = os.environ | {"PROXYCTL_PURE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=pure, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "PlainBuffer"]
