"""What no single value shows: keys that contradict each other, and names that lead nowhere.

The checks read the file's own tables, not the validated settings, so that one wrong value does not hide other errors.
Values of a wrong type are skipped here: validation reports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.config.findings import Finding
from proxy.config.suggest import listed, nearest, suggest
from proxy.config.tokens import HOW_TO_MAKE
from proxy.core import template
from proxy.core.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.positions import Path

TableDict = dict[str, Any]

_SET_BY_PROXY = {
    "PORT": "{port}",
    "PROXY_VERSION": "{version}",
    "PROXY_GENERATION": "{generation}",
    "PROXY_REPLICA": "{replica}",
    "PROXY_SERVICE": "",
    "PROXY_SUPERVISOR": "",
}
_SET_WITH_INHERIT = dict.fromkeys(("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"), "")


def check(table: TableDict) -> Iterator[Finding]:
    """Yield what is wrong between the keys of a whole config."""
    services = _tables(table.get("services"))
    for name, service in services.items():
        path: Path = ("services", name)
        versions = _tables(service.get("versions"))
        yield from _active(path, service.get("active"), versions)
        yield from _health((*path, "health"), _table(service.get("health")))
        for version, recipe in versions.items():
            yield from check_version((*path, "versions", version), recipe, service.get("datapath"))
    yield from _admin(_table(table.get("admin")))
    yield from _addresses(table, services)


def _active(path: Path, active: object, versions: TableDict) -> Iterator[Finding]:
    if not isinstance(active, str) or not versions or active in versions:
        return
    meant = suggest(active, versions)
    known = f"the versions are {listed(nearest(active, versions), 'and')}" if len(versions) > 1 else ""
    question = f'did you mean "{meant}"?' if meant else f'there is only "{next(iter(versions))}"' if not known else ""
    hint = "; ".join(filter(None, [question, known]))
    yield Finding((*path, "active"), f'there is no version "{active}"', hint)


def _admin(admin: TableDict) -> Iterator[Finding]:
    """Nobody from elsewhere may act without showing who they are."""
    has_tokens = not _is_unset(admin, "token_file")
    for path, address in _parsed(("admin", "listen"), admin.get("listen")):
        if not has_tokens and not address.is_loopback:
            yield Finding(
                path,
                f'"{address}" can be reached from other machines, which takes a token_file',
                f'{HOW_TO_MAKE.format(path="tokens")}, and token_file = "tokens" in [admin]; '
                f'or listen on "127.0.0.1:{address.port}"',
            )
    if admin.get("metrics") == "token" and not has_tokens:
        yield Finding(("admin", "metrics"), '"token" needs a token_file', 'set token_file, or metrics = "open"')
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if not _is_unset(admin, key) and _is_unset(admin, other):
            yield Finding(("admin", key), f"{key} needs {other}", "TLS takes a certificate and its key", at_key=True)


def _is_unset(table: TableDict, key: str) -> bool:
    return bool(table.get(key, "") == "")


def _health(path: Path, health: TableDict) -> Iterator[Finding]:
    kind = health.get("type", "tcp")
    if kind == "command" and _is_empty(health.get("command")):
        example = 'for example command = ["redis-cli", "-p", "{port}", "ping"]'
        yield Finding((*path, "command"), 'type "command" needs a command', example)
    if kind in ("tcp", "http", "none") and not _is_empty(health.get("command")):
        hint = 'set type = "command", or remove it'
        yield Finding((*path, "command"), f'a command is not run by checks of type "{kind}"', hint, at_key=True)
    if "type" not in health:
        for key in health.keys() & {"path", "status"}:
            message = f'checks are of type "tcp" unless told otherwise, and use no {key}'
            yield Finding((*path, key), message, 'add type = "http", or remove it', at_key=True)
    if "fd" in template.names(_texts(health)):
        message = "{fd} means nothing here: only a backend is given the public listening socket"
        yield Finding((*path, "command"), message, "{port} is the backend's private port")


def check_version(path: Path, recipe: TableDict, datapath: object = "relay") -> Iterator[Finding]:
    """Yield what is wrong between the keys of one version, and with the `datapath` of its service."""
    inherits = datapath == "inherit"
    if "address" in recipe:
        if inherits:
            message = 'datapath "inherit" needs a command: only what is started here can be given the listening socket'
            yield Finding((*path, "address"), message, 'set datapath = "relay" in the service', at_key=True)
        yield from _external(path, recipe)
    elif _is_empty(recipe.get("command")):
        message = "a command cannot be empty" if "command" in recipe else "a version needs a command, or an address"
        example = 'for example command = ["./app", "--port", "{port}"]'
        yield Finding((*path, "command"), message, example)
    names = template.names(_texts(recipe))
    if {"port", "socket"} <= names:
        message = "{port} and {socket} are both used, but a backend accepts on one of them"
        yield Finding((*path, "command"), message, "remove one of them, in command or env")
    elif inherits and "socket" in names:
        message = 'with datapath "inherit" a backend accepts on the public listening socket, not on {socket}'
        yield Finding((*path, "command"), message, "{fd} is its number, and $LISTEN_FDS says how many there are")
    if "fd" in names and not inherits:
        message = '{fd} is the public listening socket, which only datapath "inherit" gives to a backend'
        yield Finding((*path, "command"), message, 'use {port}, or set datapath = "inherit" in the service')
    reserved = _SET_BY_PROXY | _SET_WITH_INHERIT if inherits else _SET_BY_PROXY
    yield from _reserved_variables((*path, "env"), _table(recipe.get("env")), names, reserved)


def _reserved_variables(path: Path, env: TableDict, names: set[str], reserved: dict[str, str]) -> Iterator[Finding]:
    for key, value in env.items():
        if key not in reserved or value == reserved[key]:
            continue
        if key == "PORT" and "socket" in names:
            continue  # there is no private port then, and the program may have another use for the variable
        meaning = f", to what {reserved[key]} stands for" if reserved[key] else ""
        message = f"this variable is set by the proxy{meaning}"
        yield Finding((*path, key), message, "use another name, or remove it", at_key=True)


def _external(path: Path, recipe: TableDict) -> Iterator[Finding]:
    if recipe["address"] == []:
        yield Finding((*path, "address"), "at least one address is needed")
    if "command" in recipe:
        message = "a version has either a command or an address, and this one has both"
        yield Finding((*path, "address"), message, "remove one of them", at_key=True)
        return
    for key in ("replicas", "env", "cwd", "user", "output"):
        if key in recipe:
            message = "this has no effect beside address: nothing is started here"
            hint = "each address is one replica" if key == "replicas" else "remove it"
            yield Finding((*path, key), message, hint, at_key=True)


def _addresses(table: TableDict, services: TableDict) -> Iterator[Finding]:
    """Every listener is bound once, and no backend is one of them."""
    taken: dict[Address, str] = {}
    for path, address in _listeners(table, services):
        if address in taken and (address.port or address.is_unix):
            yield Finding(path, f"{address} is already listened on by {taken[address]}", "remove one of them")
        taken.setdefault(address, f"the service {path[1]}" if path[0] == "services" else "admin.listen")
    for path, address in _backends(services):
        if address in taken:
            yield Finding(path, f"{address} is the proxy itself: {taken[address]} listens there")


def _listeners(table: TableDict, services: TableDict) -> Iterator[tuple[Path, Address]]:
    for name, service in services.items():
        yield from _parsed(("services", name, "listen"), service.get("listen"))
    yield from _parsed(("admin", "listen"), _table(table.get("admin")).get("listen"))


def _backends(services: TableDict) -> Iterator[tuple[Path, Address]]:
    for name, service in services.items():
        for version, recipe in _tables(service.get("versions")).items():
            yield from _parsed(("services", name, "versions", version, "address"), recipe.get("address"))


def _parsed(path: Path, value: object) -> Iterator[tuple[Path, Address]]:
    """Every item that is an address. (A string is at `path` itself, an item of a list below it.)"""
    items = enumerate(value) if isinstance(value, list) else [(None, value)]
    for index, item in items:
        try:
            address = Address.parse(item, names=True) if isinstance(item, str) else None
        except ValueError:
            continue
        if address:
            yield (path if index is None else (*path, index)), address


def _is_empty(command: object) -> bool:
    return command is None or command == [] or (isinstance(command, str) and not command.strip())


def _texts(recipe: TableDict) -> list[str]:
    command = recipe.get("command")
    words = [command] if isinstance(command, str) else command if isinstance(command, list) else []
    return [text for text in [*words, *_table(recipe.get("env")).values()] if isinstance(text, str)]


def _table(value: object) -> TableDict:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> dict[str, TableDict]:
    return {name: each for name, each in _table(value).items() if isinstance(each, dict)}
