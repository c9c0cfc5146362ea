"""The program that `proxyctl run` becomes: control, with the API in front of it."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # what is imported below stays: looking through it for garbage is a tenth of a start, and more

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from proxy import config, logs
from proxy.api import server
from proxy.control.app import App
from proxy.control.rehearsal import rehearse
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proxy until it is told to stop; returns the exit code."""
    gc.freeze()  # what was imported lives as long as the process: not worth a look in each collection
    gc.enable()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    logs.configure(options.log_format, level=getattr(logging, options.log_level.upper()))
    try:
        examined = config.examine(options.config)
        if options.socket:
            settings = examined.settings
            admin = settings.admin.model_copy(update={"socket": options.socket})
            examined = examined._replace(settings=settings.model_copy(update={"admin": admin}))
        if options.rehearse:
            rehearse(examined.settings, options.rehearse)
            return 0
        app = App(examined, log_format=options.log_format, access_log=options.access_log, arguments=given)
        trio.run(_run, app, strict_exception_groups=True)
    except ProxyError as error:
        return _report(error)
    except BaseExceptionGroup as errors:
        expected, unexpected = errors.split(ProxyError)
        if unexpected or not expected:
            raise
        return max(_report(error) for error in _leaves(expected))
    return 0


async def _run(app: App) -> None:
    async def serve_api(app: App, shutdown: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        await server.serve(
            app, admin=app.settings.admin, sockets=app.api_sockets, shutdown=shutdown, task_status=task_status
        )

    await app.run(serve_api)


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[ProxyError]:
    found: list[ProxyError] = []
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _leaves(error)
        elif isinstance(error, ProxyError):
            found.append(error)
    return found


def _report(error: ProxyError) -> int:
    hint = f"\n  {error.hint}" if error.hint else ""
    print(f"proxyctl: {error.message}{hint}", file=sys.stderr)  # noqa: T201
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proxyctl run")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--access-log", type=Path)
    parser.add_argument("--rehearse", metavar="VERSIONS", help="see proxy/control/rehearsal.py")
    return parser


if __name__ == "__main__":
    sys.exit(main())
