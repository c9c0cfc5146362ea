"""Begin a swap, rollback or restart, and follow it to its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import complain, outcome
from proxy.cli.cells import wrapped
from proxy.cli.client import path_of
from proxy.cli.events import Events
from proxy.cli.follow import DETACHED, GoneError, follow
from proxy.cli.progress import Progress, contract
from proxy.cli.terminal import width
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.cli.client import Client
    from proxy.cli.progress import Story

Json = dict[str, Any]


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
            follow(client, events, progress, _look_up, to_stderr=as_json)
        except KeyboardInterrupt:
            watch = "`proxyctl status --watch` shows it, `proxyctl history` how it ended"
            complain(f"detached; the {verb} goes on", watch)
            return DETACHED
        except GoneError as error:
            back = "when it is back, `proxyctl history` says how it ended"
            complain(
                f"the proxy went away during the {verb}: {outcome.unknown(progress)}", f"{error.last.message}\n{back}"
            )
            return 1
    return _tell(progress.result or {}, as_json=as_json)


def _look_up(client: Client, story: Story) -> Json | None:
    """How it ended, if it ended while the stream was broken. Raises ProxyError if the proxy that answers lost it."""
    service, kind = story.begun["service"], story.begun["kind"]
    state = client.get(path_of("services", service))  # before the history: what is in neither is nowhere
    entries = client.get("/v1/history?limit=1000")["history"]
    result: Json | None = next((entry for entry in reversed(entries) if story.is_result(entry)), None)
    if result is None and not state.get("operation") and len(state["generations"]) < 2:
        raise ProxyError(
            f"the proxy was started anew during the {kind}, and does not know how it ended: {outcome.unknown(story)}",
            hint=f"{service}: {state['active'] or 'no version'} serves; `proxyctl status` shows more",
        )
    return result


def _tell(result: Json, *, as_json: bool) -> int:
    swapped = result["result"] == "swapped"
    if not swapped:
        complain(*outcome.failure(result))
    if as_json:
        click.echo(json.dumps(contract(result)))
    elif swapped:
        told = (outcome.success(result), outcome.overlap(result))
        click.echo("\n".join(text for each in told for text in wrapped(each, width())))
    return 0 if swapped else 1
