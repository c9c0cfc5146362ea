"""`proxyctl help [VERB]`."""

from __future__ import annotations

import click

from proxy.cli.options import examples


@click.command(epilog=examples("proxyctl help", "proxyctl help swap"))
@click.argument("verb", required=False)
@click.pass_context
def command(context: click.Context, verb: str | None) -> None:
    """Show the help of proxyctl or of a verb."""
    parent = context.parent
    if parent is None or not isinstance(parent.command, click.Group):
        raise click.UsageError("help is a verb of proxyctl")
    if verb is None:
        click.echo(parent.get_help())
        return
    name, found, _ = parent.command.resolve_command(parent, [verb])
    if found is not None:
        with click.Context(found, info_name=name, parent=parent) as about:
            click.echo(found.get_help(about))
