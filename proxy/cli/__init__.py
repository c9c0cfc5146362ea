"""`proxyctl`: one verb per file, each a click command named `command`, imported when it is used.

Exit codes: 0 done; 1 the operation failed, and what was serving before still serves; 2 usage or config error; 3 no
proxy answers on the socket; 130 interrupted (a swap that was being watched goes on).
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from proxy import __version__
from proxy.cli.cells import visible
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The help of `proxyctl` itself needs one line for each verb, and not the verbs.
VERBS = {
    "run": "Run the proxy, in the foreground.",
    "demo": "Show swaps under load, with nothing installed.",
    "check": "Validate a config.",
    "swap": "Put another version behind the service's port.",
    "rollback": "Go back to the previous generation.",
    "restart": "Start the active version anew, without a gap.",
    "status": "Show what runs and what is under way.",
    "history": "Show past swaps: phase times and outcome.",
    "logs": "Show what a version's backends print.",
    "pause": "Hold new connections: accepted, not refused.",
    "resume": "Let the connections go that a pause holds.",
    "reload": "Apply a changed config.",
    "stop": "Drain everything and end the proxy.",
    "doctor": "Show what this machine allows, and how to fix what it does not.",
    "upgrade": "Replace the proxy's own code.",
    "help": "Show the help of proxyctl or of a verb.",
}

_COMPLETION = "_PROXYCTL_COMPLETE"  # set by what `_PROXYCTL_COMPLETE=bash_source proxyctl` prints
_INTERRUPTED = 130  # as a shell reports SIGINT
_BROKEN_PIPE = 141  # as a shell reports SIGPIPE


class Verbs(click.Group):
    """The table above, and behind each name a module of this package."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = importlib.import_module(f"proxy.cli.{name}").command
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f'there is no verb "{args[0]}"{_suggestion(args[0])}', context)
        return super().resolve_command(context, args)

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="VERB …",
    epilog="`proxyctl help VERB` shows examples. New here? `proxyctl demo` shows it all with nothing installed.",
)
@click.option("--socket", metavar="PATH", help="The proxy's control socket.")
@click.version_option(__version__, prog_name="proxyctl", message="%(prog)s %(version)s")
@click.pass_context
def group(context: click.Context, socket: str | None) -> int:  # noqa: ARG001 - options.given_socket finds it
    """A zero-downtime front proxy: swap the version behind a live port, and no client notices."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `proxyctl` with the arguments of this process (or those given) and exit."""
    sys.exit(perform(arguments))


def perform(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are told on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the locale cannot show must not end it
    try:
        code = _perform(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except ProxyError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "proxyctl"
        complain(error.format_message().rstrip("."), f"`{command} --help` shows how it is used")
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is left in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code if isinstance(code, int) else 0


def _perform(arguments: list[str]) -> object:
    """What `group.main` does, but for its own way with errors: it would make 1 of a broken pipe."""
    if wanted := os.environ.get(_COMPLETION):
        from click.shell_completion import shell_complete  # noqa: PLC0415 - only when the shell asks

        return shell_complete(group, {}, "proxyctl", _COMPLETION, wanted)
    with group.make_context("proxyctl", arguments) as context:
        return group.invoke(context)


def complain(message: str, hint: str = "") -> None:
    """Say on standard error what went wrong and, indented, what to do.

    Long lines are the terminal's to wrap: a command in a hint that we had wrapped could not be copied.
    """
    lines = [*f"proxyctl: {message}".split("\n"), *(f"  {line}" for line in hint.splitlines())]
    click.echo("\n".join(map(visible, lines)), err=True)


def _suggestion(name: str) -> str:
    from proxy.config.suggest import suggest  # noqa: PLC0415 - only needed for a typo

    near = suggest(name, VERBS)
    return f'; did you mean "{near}"?' if near else ""
