"""Begin a swap, rollback or restart, and follow it to its end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import complain, outcome
from proxy.cli.client import path_of
from proxy.cli.events import Events, StreamEndedError
from proxy.cli.plain import Plain
from proxy.cli.progress import Progress, contract
from proxy.cli.terminal import is_live
from proxy.errors import NotRunningError

if TYPE_CHECKING:
    from proxy.cli.client import Client
    from proxy.cli.live import Screen

Json = dict[str, Any]

DETACHED = 130  # not 0: a script that was interrupted must not take the swap for done


def operate(client: Client, verb: str, service: str | None, body: Json, *, wait: bool, as_json: bool) -> int:
    """POST to the service's `verb`; return the exit code. With `as_json` progress goes to standard error, and the last
    line of standard output is one object.
    """
    path = path_of("services", client.service(service), verb)
    if not wait:
        begun = client.post(path, body)
        hint = "`proxyctl status --watch` shows it"
        click.echo(json.dumps(begun) if as_json else f"{Progress(begun).headline()} has begun; {hint}")
        return 0
    # The stream first: then nothing of what the request causes can be missed.
    with Events(client) as events:
        progress = Progress(client.post(path, body))
        try:
            result = _follow(client, events, progress, to_stderr=as_json)
        except KeyboardInterrupt:
            watch = "`proxyctl status --watch` shows it, `proxyctl history` how it ended"
            complain(f"detached; the {verb} goes on", watch)
            return DETACHED
        except NotRunningError as error:
            complain(f"the proxy went away during the {verb}: {outcome.unknown(progress)}", error.message)
            return 1
    return _tell(result, as_json=as_json)


def _follow(client: Client, events: Events, progress: Progress, *, to_stderr: bool) -> Json:
    """Show the progress until there is a result. Raises NotRunningError when the proxy has gone."""
    with _view(progress, to_stderr=to_stderr) as view:
        while progress.result is None:
            try:
                for event in events.wait(view.tick):
                    progress.take(event)
            except StreamEndedError:
                events.reopen()
                progress.result = _from_history(client, progress)
            view.update()
    return progress.result


def _view(progress: Progress, *, to_stderr: bool) -> Plain | Screen:
    stream = sys.stderr if to_stderr else sys.stdout
    if not is_live(stream):
        return Plain(progress, stream)
    from proxy.cli.live import Screen  # noqa: PLC0415 - rich takes longer to import than all the rest

    return Screen(progress, stream)


def _from_history(client: Client, progress: Progress) -> Json | None:
    """How it ended, if it ended while the stream was broken."""
    entries = client.get("/v1/history?limit=1000")["history"]
    return next((entry for entry in reversed(entries) if progress.is_result(entry)), None)


def _tell(result: Json, *, as_json: bool) -> int:
    swapped = result["result"] == "swapped"
    if not swapped:
        complain(*outcome.failure(result))
    if as_json:
        click.echo(json.dumps(contract(result)))
    elif swapped:
        click.echo(outcome.success(result))
    return 0 if swapped else 1
