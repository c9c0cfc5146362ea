"""The demo's websocket speaks RFC 6455, so that what it shows holds for others' websockets too."""

from __future__ import annotations

import pytest

from proxy.cli.demo.websocket import (
    CLOSE,
    LONGEST,
    PING,
    TEXT,
    Frame,
    Frames,
    WebsocketError,
    accept_key,
    encode,
    new_key,
)


def cut(data: bytes, *, masked: bool) -> list[Frame]:
    frames = Frames(masked=masked)
    frames.feed(data)
    return list(iter(frames.take, None))


def test_the_handshake_is_answered_as_the_rfc_s_example() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # section 1.3


def test_two_clients_never_have_the_same_key() -> None:
    assert new_key() != new_key()


def test_the_rfc_s_examples_of_frames_are_understood_and_made() -> None:
    plain = bytes.fromhex("810548656c6c6f")  # section 5.7
    assert encode(TEXT, b"Hello", masked=False) == plain
    assert cut(plain, masked=False) == [Frame(TEXT, b"Hello")]
    assert cut(bytes.fromhex("818537fa213d7f9f4d5158"), masked=True) == [Frame(TEXT, b"Hello")]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, LONGEST])
def test_a_message_of_any_length_arrives_whole_however_it_is_cut_on_its_way(size: int, masked: bool) -> None:
    payload = bytes(range(256)) * 16
    data = encode(TEXT, payload[:size], masked=masked) + encode(PING, b"?", masked=masked)
    frames = Frames(masked=masked)
    found = []
    for index in range(len(data)):
        frames.feed(data[index : index + 1])
        found += list(iter(frames.take, None))
    assert found == [Frame(TEXT, payload[:size]), Frame(PING, b"?")]
    assert cut(data, masked=masked) == found


def test_what_follows_a_goodbye_is_not_lost() -> None:
    assert [frame.opcode for frame in cut(2 * encode(CLOSE, b"\x03\xe8", masked=False), masked=False)] == [CLOSE, CLOSE]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(TEXT, b"a", masked=False), id="a client's frame without a mask"),
        pytest.param(bytes([0x01, 0x80]), id="the first of several frames"),
        pytest.param(bytes([0xC1, 0x80]), id="an extension's bit"),
        pytest.param(bytes([0x82, 0x80]), id="binary"),
        pytest.param(bytes([0x81, 0xFE, 0x10, 0x01]), id="longer than is taken"),
        pytest.param(bytes([0x81, 0xFF]), id="a length of 64 bits"),
    ],
)
def test_a_frame_that_is_not_understood_ends_the_websocket_instead_of_being_misread(data: bytes) -> None:
    with pytest.raises(WebsocketError):
        cut(data, masked=True)


def test_a_message_that_the_other_side_would_not_take_is_not_sent() -> None:
    with pytest.raises(WebsocketError):
        encode(TEXT, bytes(LONGEST + 1), masked=True)
