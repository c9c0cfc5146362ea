"""Backends of much content.

For uvicorn, `bulk:app` is asgi.py's application, and `GET /bytes/N` answers N bytes with their hash in `X-SHA256`.

As a program, `bulk.py PORT` serves TCP by a connection's first line: after `echo`, what comes goes back; after
`send N`, the hash of N bytes is answered, in a line, and then the bytes; after `take`, everything until the client's
end is read, and its hash answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 18
_CONTENT = random.Random(0).randbytes(_BLOCK)


def content(size: int) -> Iterator[bytes]:
    """No two blocks are the same, so that one that is missing, twice or elsewhere is noticed."""
    for start in range(0, size, _BLOCK):
        yield (start.to_bytes(8, "big") + _CONTENT[8:])[: size - start]


def hash_of(size: int) -> str:
    sha256 = hashlib.sha256()
    for block in content(size):
        sha256.update(block)
    return sha256.hexdigest()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http" or not scope["path"].startswith("/bytes/"):
        import asgi

        await asgi.app(scope, receive, send)
        return
    size = int(scope["path"].rpartition("/")[2])
    headers = [(b"content-length", b"%d" % size), (b"x-sha256", hash_of(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for block in content(size):
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        match (await reader.readline()).decode().split():
            case ["echo"]:
                while piece := await reader.read(_BLOCK):
                    writer.write(piece)
                    await writer.drain()
            case ["send", size]:
                writer.write(f"{hash_of(int(size))}\n".encode())
                for block in content(int(size)):
                    writer.write(block)
                    await writer.drain()
            case ["take"]:
                sha256 = hashlib.sha256()
                while piece := await reader.read(_BLOCK):
                    sha256.update(piece)
                writer.write(sha256.hexdigest().encode())
                await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _main(port: int) -> None:
    async with await asyncio.start_server(_serve, "127.0.0.1", port, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
