"""`proxyctl upgrade`: the proxy's own code, without dropping a connection."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import click

from proxy.cli import complain, outcome, upgrade_progress
from proxy.cli.cells import wrapped
from proxy.cli.events import Events
from proxy.cli.follow import DETACHED, GoneError, follow
from proxy.cli.options import examples, json_option, talks
from proxy.cli.terminal import width
from proxy.cli.upgrade_progress import UpgradeProgress

if TYPE_CHECKING:
    from proxy.cli.client import Client
    from proxy.cli.progress import Story

Json = dict[str, Any]

_AFTERWARDS = "`proxyctl status` shows how it ended"


@click.command(
    epilog=examples(
        "pip install --upgrade …; proxyctl upgrade",
        "proxyctl upgrade --json | tail -n 1 | jq .pause",
        "proxyctl upgrade --no-wait",
    )
)
@click.option("--no-wait", is_flag=True, help="Return when the upgrade has begun.")
@json_option("Progress goes to stderr; the last line of stdout is one JSON object.")
@talks
def command(client: Client, *, no_wait: bool, as_json: bool) -> int:
    """Replace the proxy's own code.

    Install the new release where the running one was started from, then upgrade: the new code is checked in a process
    of its own, the control process becomes it under the same pid, and workers are replaced one at a time. They hand
    their open connections over; backends are not touched. What is being drained keeps its deadline.

    Ctrl-C stops the waiting, not the upgrade, and exits with 130. Exits with 1 when it failed, and says why; what
    served before serves on.
    """
    if no_wait:
        begun = client.post("/v1/upgrade")
        hint = "`proxyctl status` shows it"
        click.echo(json.dumps(begun) if as_json else f"{UpgradeProgress(begun).headline()} has begun; {hint}")
        return 0
    pid = client.pid()
    with Events(client) as events:
        progress = UpgradeProgress(client.post("/v1/upgrade"))
        try:
            follow(client, events, progress, _look_up, to_stderr=as_json)
        except KeyboardInterrupt:
            complain("detached; the upgrade goes on", _AFTERWARDS)
            return DETACHED
        except GoneError as error:
            progress.take_result(_lost(progress, *_silence(progress, error, pid)))
    return _tell(progress.result or {}, as_json=as_json)


def _look_up(client: Client, story: Story) -> Json | None:
    """How it ended, if it ended while the stream was broken."""
    proxy = client.get("/v1/status")["proxy"]
    if story.is_result(proxy.get("last_upgrade")):
        found: Json = proxy["last_upgrade"]
        return found
    if not story.is_result(proxy.get("upgrade")):
        error = f"the proxy was started anew meanwhile, and knows nothing of it ({outcome.unknown(story)})"
        return _lost(story, error, f"{proxy['version']} runs now; its log says what happened", target=proxy["version"])
    return None


def _lost(story: Story, error: str, hint: str, *, target: str | None = None) -> Json:
    """A result, where the proxy has none to give."""
    now = time.time()
    return {
        **{key: story.begun[key] for key in ("id", "from", "started")},
        "kind": "upgrade",
        "to": target,
        "result": "failed",
        "phases": {
            name: now - phase.began if phase.seconds is None else phase.seconds for name, phase in story.phases.items()
        },
        "carried": 0,
        "kept": 0,
        "pause": 0.0,
        "workers": [],
        "error": error,
        "hint": hint,
        "output": [],
        "finished": round(now, 3),
        "is_lost": True,
    }


def _silence(story: Story, error: GoneError, pid: int) -> tuple[str, str]:
    """What to say when nobody answers any more, and what to do about it."""
    message = f"no answer for {error.seconds:.0f}s ({outcome.unknown(story)}): {error.last.message}"
    start = "the supervisor's restart (systemctl restart), or `proxyctl run`, starts control again, which adopts them"
    if pid and os.path.exists(f"/proc/{pid}"):
        start = f"process {pid} is there, and hangs: kill -9 {pid}; then {start}"
    return message, f"workers and backends serve on, and no connection is lost\n{start}\nthe proxy's log says more"


def _tell(result: Json, *, as_json: bool) -> int:
    upgraded = result["result"] == "upgraded"
    if not upgraded:
        complain(*upgrade_progress.failure(result))
    if as_json:
        click.echo(json.dumps(upgrade_progress.contract(result)))
    elif upgraded:
        click.echo("\n".join(wrapped(upgrade_progress.success(result), width())))
    return 0 if upgraded else 1
