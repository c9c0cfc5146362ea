"""aiohttp: one session for each connection. Only idempotent requests would be tried twice. See loop.py."""

from __future__ import annotations

import asyncio

import aiohttp
import loop


async def main() -> None:
    await asyncio.gather(*map(run, range(loop.clients)))
    loop.tally.print()


async def run(number: int) -> None:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=3600)
    async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as session:
        for method, url, identity, wait in loop.work(number):
            await asyncio.sleep(wait)
            content = loop.BODY if identity else None
            try:
                async with session.request(method, url, data=content) as answer:
                    loop.tally.check(identity, answer.status, await answer.read())
            except aiohttp.ClientError as error:
                loop.tally.failed(error)


async def count(*_: object) -> None:
    loop.tally.connections += 1


asyncio.run(main())
