"""As much HTTP/1 as it takes to talk to our own server (RFC 9112).

The standard library's http.client takes 35 ms of CPU to import, a third of what `proxyctl status` would cost with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_PIECE = 65536  # bytes
_LONGEST_LINE = 65536
_MOST_HEADERS = 100


class CutOffError(OSError):
    """The answer ended before it was complete, or is not HTTP."""


class Answer:
    """A `status`, and the content that follows on the connection; a context manager."""

    def __init__(self, stream: socket.socket) -> None:
        self._file = stream.makefile("rb")
        try:
            self.status = self._read_status()
            self._headers = self._read_headers()
        except BaseException:
            self._file.close()
            raise

    def read(self) -> bytes:
        """All of the content."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The content as it comes. Raises CutOffError where the end is missing."""
        if self._headers.get(b"transfer-encoding") == b"chunked":
            yield from self._chunks()
        elif length := self._headers.get(b"content-length"):
            yield self._exactly(int(length))
        else:  # HTTP/1.0: the end of the connection is the end
            while piece := self._file.read1(_PIECE):
                yield piece

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def early(self) -> bytes:
        """What came along with the head. The socket must not block."""
        return self._file.read1(_PIECE)

    def _read_status(self) -> int:
        version, _, rest = self._line().partition(b" ")
        code = rest[:3]
        if version not in {b"HTTP/1.0", b"HTTP/1.1"} or len(code) < 3 or not code.isdigit():
            raise CutOffError("the answer is not HTTP")
        return int(code)

    def _read_headers(self) -> dict[bytes, bytes]:
        headers: dict[bytes, bytes] = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
            if len(headers) > _MOST_HEADERS:
                raise CutOffError("the answer is not HTTP")
        return headers

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield self._exactly(size)
            self._line()
        self._line()

    def _chunk_size(self) -> int:
        try:
            return int(self._line().partition(b";")[0], 16)
        except ValueError:
            raise CutOffError("the answer is not HTTP") from None

    def _exactly(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) < size:
            raise CutOffError("the answer is cut off")
        return content

    def _line(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise CutOffError("the answer is cut off")
        return line.strip()


def ask(
    stream: socket.socket, method: str, path: str, body: bytes | None = None, *, version: Literal["1.0", "1.1"] = "1.1"
) -> Answer:
    """Send a request and read the head of its answer. Version 1.0 has no chunks: what is read is the content."""
    head = [f"{method} {path} HTTP/{version}", "Host: localhost", "Connection: close"]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    stream.sendall("\r\n".join([*head, "", ""]).encode() + (body or b""))
    return Answer(stream)
