"""`proxyctl stop`: drain everything, and wait until the proxy is gone."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import complain
from proxy.cli.cells import best
from proxy.cli.options import examples, talks
from proxy.cli.terminal import age, is_live, plural, width
from proxy.errors import NotRunningError, ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.cli.client import Client

Json = dict[str, Any]

_TICK = 1.0  # seconds between two looks at what still drains


@click.command(epilog=examples("proxyctl stop", "proxyctl stop --now"))
@click.option("--now", is_flag=True, help="Close what is open, instead of letting it finish.")
@talks
def command(client: Client, *, now: bool) -> int:
    """Drain everything and end the proxy.

    New connections are refused; open ones may finish until each service's drain deadline. Returns when the process is
    gone. Ctrl-C stops the waiting, not the stop, and exits with 130.
    """
    pid, claimed = client.pid(), int(client.get("/v1/status")["proxy"]["pid"])
    with _end_of(pid if pid == claimed else 0, client) as gone:
        client.post("/v1/stop", {"now": now})
        told = ""
        try:
            while not gone(_TICK):
                told = _tell(client, told)
        except KeyboardInterrupt:
            complain("detached; the proxy goes on stopping", "`proxyctl stop --now` ends it at once")
            return 130
        finally:
            if told and is_live(sys.stdout):
                click.echo()
    click.echo("the proxy has stopped")
    return 0


@contextlib.contextmanager
def _end_of(pid: int, client: Client) -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits up to some seconds for the end of the process and says whether it has ended.

    Without a pid (a proxy in another pid namespace) the end is when nobody answers on the socket.
    """
    try:
        handle = os.pidfd_open(pid) if pid else -1
    except OSError:
        handle = -1
    if handle < 0:
        yield lambda seconds: _is_silent(client, seconds)
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


def _is_silent(client: Client, seconds: float) -> bool:
    time.sleep(min(seconds, 0.2))
    try:
        client.pid()
    except NotRunningError:
        return True
    return False


def _tell(client: Client, told: str) -> str:
    """Show what is still open, if that has changed; return what was shown."""
    try:
        text = remaining(client.get("/v1/status"), time.time(), width())
    except ProxyError:  # the API ends a moment before the process
        return told
    if text != told:
        live = is_live(sys.stdout)
        click.echo(f"\r\x1b[K{text}" if live else text, nl=not live)
    return text


def remaining(status: Json, now: float, room: int | None = None) -> str:
    """What a stop still waits for, at the Unix time `now`; in one line, since it is drawn over."""
    generations = [each for service in status["services"].values() for each in service["generations"]]
    count = sum(each["connections"] for each in generations)
    deadlines = [each["drain"]["deadline"] for each in generations if each["drain"]]
    text = f"stopping: {plural(count, 'connection')} open"
    if not deadlines or not count:
        return best([text], room)
    left = age(max(deadlines) - now)
    shorter = f"stopping: {count} open, {left} left", f"{count}, {left}"
    return best([f"{text}, closed in {left} at the latest", *shorter], room)
