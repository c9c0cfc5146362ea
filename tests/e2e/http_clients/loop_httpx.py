"""httpx: one client, so one pool, for each connection. See loop.py."""

from __future__ import annotations

import asyncio

import httpx
import loop


async def main() -> None:
    await asyncio.gather(*map(run, range(loop.clients)))
    loop.tally.print()


async def run(number: int) -> None:
    transport = httpx.AsyncHTTPTransport(retries=0, limits=httpx.Limits(max_connections=1, keepalive_expiry=None))
    async with httpx.AsyncClient(transport=transport, timeout=30, trust_env=False) as client:
        for method, url, identity, wait in loop.work(number):
            await asyncio.sleep(wait)
            content = loop.BODY if identity else b""
            try:
                answer = await client.request(method, url, content=content, extensions={"trace": count})
            except httpx.HTTPError as error:
                loop.tally.failed(error)
            else:
                loop.tally.check(identity, answer.status_code, answer.content)


async def count(event: str, _: object) -> None:
    loop.tally.connections += event == "connection.connect_tcp.complete"


asyncio.run(main())
