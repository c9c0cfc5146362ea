"""What several verbs share: options, and the way to a running proxy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy.cli.client import Client
from proxy.cli.where import find

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def socket_option(function: F) -> F:
    return click.option("--socket", metavar="PATH", help="The proxy's control socket.")(function)


def service_option(function: F) -> F:
    return click.option("--service", metavar="NAME", help="Which service; may be left out where there is only one.")(
        function
    )


def json_option(help_text: str) -> Callable[[F], F]:
    return click.option("--json", "as_json", is_flag=True, help=help_text)


def given_socket(option: str | None) -> str | None:
    """`--socket` of the verb, or the one before the verb."""
    value = option or click.get_current_context().find_root().params.get("socket")
    return str(value) if value else None


def talks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb `--socket`, and call it with a `client` for the proxy there."""

    @socket_option
    @functools.wraps(function)
    def verb(*args: Any, socket: str | None, **options: Any) -> Any:
        return function(*args, client=Client(find(given_socket(socket))), **options)

    return verb


def examples(*lines: str) -> str:
    """An epilog for a verb's help; the first line's mark keeps click from wrapping (its documentation, "Escaping")."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
