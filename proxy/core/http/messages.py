"""Cuts the bytes of a connection into HTTP/1 messages: requests one way, responses the other.

Both are fed with `take(data)`, which returns how many of these bytes belong to the present message: first those of its
head, then, in further calls, those of its body. Bytes behind a complete message are not taken; `next` begins another.
As long as a head is not complete, all of `data` is taken.

Both can go on in another process: `state()` is a dictionary of JSON values and bytes, and `restore` takes it up. Heads
travel as they came, and are read again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from proxy.core.http import body
from proxy.core.http.head import LIMIT, HeadError, RequestHead, ResponseHead, parse_request, parse_response
from proxy.core.http.opening import Opening, judge

if TYPE_CHECKING:
    from proxy.core.http.body import Body

_END = b"\r\n\r\n"
_STATUS = b"HTTP/1."
_EMPTY_LINES = re.compile(rb"(?:\r\n)*")


class Requests:
    """What a client sends. `head` and `body` belong to the present request, and are None until its head is complete.

    `begun` is what there is of a head that is not complete. Of a connection's first bytes it may turn out that they are
    not HTTP/1: then `is_foreign` is set, and what is to be passed on is `begun` with whatever was not taken.
    """

    __slots__ = ("_is_first", "begun", "body", "head", "is_foreign")

    def __init__(self) -> None:
        self.head: RequestHead | None = None
        self.body: Body | None = None
        self.begun = b""
        self.is_foreign = False
        self._is_first = True

    @property
    def is_complete(self) -> bool:
        return self.body is not None and self.body.is_done

    def take(self, data: memoryview) -> int:
        """Raises HeadError, after which nothing can be said of where the next message begins."""
        if self.body is not None:
            return self.body.take(data)
        text = bytes(data[:LIMIT])
        if not self.begun and text[:1] != b"\r" and (end := text.find(_END)) >= 0:
            # Nearly always a whole head is there at once.
            end += 4
            return self._read(text if end == len(text) else text[:end], end, text)
        return self._gather(data)

    def next(self) -> None:
        """Begin with the next request, once the present one is complete."""
        self.head = self.body = None

    def came_whole(self, head: RequestHead) -> None:
        """The present request was taken by somebody else, who had all of it."""
        self._is_first = False
        self.head = head
        self.body = body.NOTHING

    def state(self) -> dict[str, Any]:
        return {
            "head": self.head and self.head.raw,
            "body": self.body and self.body.state(),
            "begun": self.begun,
            "is_first": self._is_first,
            "is_foreign": self.is_foreign,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where others were. Raises ValueError or KeyError for a state that makes no sense."""
        self.head = parse_request(body.bytes_of(state, "head")) if state["head"] else None
        self.body = body.restored(state["body"]) if state["body"] else None
        self.begun = body.bytes_of(state, "begun")
        self._is_first = bool(state["is_first"])
        self.is_foreign = bool(state["is_foreign"])

    def _gather(self, data: memoryview) -> int:
        """Add to a head that comes in pieces, or behind empty lines: an old client's mistake (RFC 9112, 2.2)."""
        before = checked = len(self.begun)
        text = self.begun + bytes(data[: LIMIT - before])
        lead = _EMPTY_LINES.match(text).end()  # type: ignore[union-attr]  # it matches anything
        end = text.find(_END, lead if self._is_first else max(lead, before - 3))
        if end >= 0:
            return self._read(text[lead : end + 4], end + 4 - before, text)
        self.begun = text
        taken = len(text) - before
        if self._is_first:
            opening = judge(text, before)
            self.is_foreign = opening is Opening.OTHER
            if opening is not Opening.HTTP1:
                return taken
            self._is_first = False
            checked = 0
        if body.BARE.search(text, max(lead, checked - 1)):
            raise HeadError("a bare CR or LF in a head")
        if len(text) - lead >= LIMIT:
            raise HeadError("a head of more than 64 KiB", 431)
        self.begun = text[lead:]
        # There may be more behind many empty lines.
        return taken if taken == len(data) else taken + self.take(data[taken:])

    def _read(self, raw: bytes, taken: int, text: bytes) -> int:
        """Read a complete head, of which `taken` bytes are new; `text` is all that has come."""
        try:
            head = parse_request(raw)
        except HeadError:
            opening = judge(text) if self._is_first else Opening.HTTP1
            if opening is Opening.HTTP1:
                raise
            self.is_foreign = opening is Opening.OTHER
            taken = len(text) - len(self.begun)
            self.begun = text  # HTTP/2's preface has an empty line in it
            return taken
        self._is_first = False
        self.begun = b""
        self.head = head
        self.body = body.of_length(head.length)
        return taken


class Responses:
    """What a backend sends. `expect` says to which request the next response belongs.

    Interim responses (1xx) are messages of their own; after each, `next` is called and the same request expected on.
    """

    __slots__ = ("_method", "begun", "body", "head")

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.body: Body | None = None
        self.begun = b""
        self._method = ""

    @property
    def is_complete(self) -> bool:
        return self.body is not None and self.body.is_done

    def expect(self, method: str) -> None:
        """The next response is one to a request with this method (RFC 9112, 6.3)."""
        self.next()
        self._method = method

    def take(self, data: memoryview) -> int:
        """Raises HeadError."""
        if self.body is not None:
            return self.body.take(data)
        text = bytes(data[:LIMIT])
        before = len(self.begun)
        if before:
            text = self.begun + text[: LIMIT - before]
        end = text.find(_END, max(0, before - 3)) + 4
        if end < 4:
            if not _STATUS.startswith(text[: len(_STATUS)]):
                raise HeadError("not the beginning of a response")
            if body.BARE.search(text, max(0, before - 1)):
                raise HeadError("a bare CR or LF in a head")
            if len(text) >= LIMIT:
                raise HeadError("a head of more than 64 KiB")
            self.begun = text
            return len(text) - before
        self.begun = b""
        self.head = head = parse_response(text if end == len(text) else text[:end])
        self.body = body.of_length(self._length(head))
        return end - before

    def next(self) -> None:
        self.head = self.body = None
        self.begun = b""

    def state(self) -> dict[str, Any]:
        return {
            "method": self._method,
            "head": self.head and self.head.raw,
            "body": self.body and self.body.state(),
            "begun": self.begun,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where others were. Raises ValueError or KeyError for a state that makes no sense."""
        self._method = str(state["method"])
        self.head = parse_response(body.bytes_of(state, "head")) if state["head"] else None
        self.body = body.restored(state["body"]) if state["body"] else None
        self.begun = body.bytes_of(state, "begun")

    def _length(self, head: ResponseHead) -> int:
        if self._method == "HEAD" or head.status < 200 or head.status in (204, 304):
            return 0
        if self._method == "CONNECT" and head.status < 300:
            return 0
        return head.length
