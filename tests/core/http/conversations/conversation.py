"""What a conversation in the corpus is, and the few words its tables are written with.

The boundaries are written as the pieces themselves: each message is its head and its body, one after the other, and the
bytes that go over the wire are all of them joined. So the sizes expected need not be counted by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

NONE: Final = "none"
LENGTH: Final = "length"
CHUNKED: Final = "chunked"
UNTIL_CLOSE: Final = "until close"

FOREIGN: Final = "foreign"  # not HTTP/1: all of it is passed on as it is
WAITING: Final = "waiting"  # between messages, or inside of one that is not complete
TUNNEL: Final = "tunnel"  # what follows is no more HTTP


@dataclass(frozen=True)
class Message:
    """One message: `lead` is what comes before its head and belongs to nothing."""

    head: bytes
    body: bytes = b""
    kind: str = NONE
    lead: bytes = b""

    @property
    def wire(self) -> bytes:
        return self.lead + self.head + self.body


@dataclass(frozen=True)
class Side:
    """What one side says: complete messages, then `rest`, and what `rest` ends in.

    `end` is WAITING, FOREIGN, TUNNEL, or the status with which `rest` is refused. `rest` begins with `partial`, a
    message whose head is complete and whose body is not, or is broken.
    """

    messages: tuple[Message, ...] = ()
    rest: bytes = b""
    end: str | int = WAITING

    @property
    def wire(self) -> bytes:
        return b"".join(message.wire for message in self.messages) + self.rest


@dataclass(frozen=True)
class Conversation:
    name: str
    client: Side
    backend: Side = field(default_factory=Side)
    methods: tuple[str, ...] = ()  # of the requests that the responses belong to, when not those of `client`


def head(first: str, *fields: str) -> bytes:
    """A head of these lines."""
    return "\r\n".join([first, *fields, "", ""]).encode("latin-1")


def get(target: str = "/", *fields: str) -> Message:
    return Message(head(f"GET {target} HTTP/1.1", "Host: a", *fields))


def sized(first: str, body: bytes, *fields: str) -> Message:
    """A message with a Content-Length."""
    return Message(head(first, *fields, f"Content-Length: {len(body)}"), body, LENGTH if body else NONE)


def chunked(first: str, body: bytes, *fields: str) -> Message:
    """A message in chunks; `body` as it goes over the wire."""
    return Message(head(first, *fields, "Transfer-Encoding: chunked"), body, CHUNKED)


def asks(name: str, *messages: Message, rest: bytes = b"", end: str | int = WAITING) -> Conversation:
    """Only the client's side is of interest."""
    return Conversation(name, Side(messages, rest, end))


def refused(name: str, rest: bytes, *before: Message, status: int = 400) -> Conversation:
    """The client is refused after the complete messages `before`."""
    return Conversation(name, Side(before, rest, status))


def foreign(name: str, data: bytes) -> Conversation:
    return Conversation(name, Side((), data, FOREIGN))


def answers(
    name: str, *messages: Message, to: str | tuple[str, ...] = "GET", rest: bytes = b"", end: str | int = WAITING
) -> Conversation:
    """Only the backend's side is of interest. `to`: the methods of the requests, the last one for all that follow."""
    methods = (to,) if isinstance(to, str) else to
    return Conversation(name, Side(), Side(messages, rest, end), methods)
