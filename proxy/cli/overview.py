"""The status as text: what a person needs at 3 a.m., most important first, and on a narrow screen that alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.cli import outcome, phases
from proxy.cli.cells import best, fold, span, wrapped
from proxy.cli.progress import Progress
from proxy.cli.table import Cell, Column, line, table
from proxy.cli.terminal import age, paint, plural, took
from proxy.cli.upgrade_progress import UpgradeProgress

if TYPE_CHECKING:
    from collections.abc import Collection

    from proxy.cli.progress import Story

Json = dict[str, Any]

_COLORS = {
    "serving": "green",
    "active": "green",
    "down": "red",
    "failed": "red",
    "warm": "dim",
    "stopping": "dim",
}  # everything else is on its way: yellow

_ROOMY = 60  # columns from which on there is room for more than what matters most

_BEFORE = (Column("GEN", 2, right=True), Column("VERSION"), Column("STATE"), Column("CONNECTIONS", 1, right=True))
_REQUESTS = (Column("IN FLIGHT", 4, right=True),)  # only where requests are understood
_STEERING = (
    Column("STEERED", 5, right=True),
    Column("FELL THROUGH", 5, right=True),
)  # only where connections are to be steered
_AFTER = (Column("HEALTHY", 3), Column("AGE", 6, right=True))


def overview(status: Json, *, now: float, width: int | None, stories: Collection[Story] = ()) -> list[str]:
    """The lines of `proxyctl status` at the Unix time `now`, none wider than `width`.

    `stories`: what is known of things that are under way beyond what the status says.
    """
    lines = _proxy(status["proxy"], now, width, stories)
    for name, service in status["services"].items():
        lines += ["", *_service(name, service, now, width, stories)]
    return lines


def _proxy(proxy: Json, now: float, width: int | None, stories: Collection[Story]) -> list[str]:
    workers = proxy["workers"]
    facts = [
        f"proxy {proxy['version']}",
        f"process {proxy['pid']}",
        f"up {age(proxy['uptime'])}",
        plural(len(workers), "worker"),
        plural(sum(worker["connections"] for worker in workers), "connection"),
    ]
    if restarts := proxy.get("worker_restarts"):
        facts.append(f"{plural(restarts, 'worker restart')}")
    forms = [", ".join(facts[:count]) for count in range(len(facts), 0, -1)]
    lines = [paint(best(forms, width), "bold")]
    if limits := proxy.get("limits"):
        lines += _limits(limits["descriptors"], width)
    if admin := proxy.get("admin"):
        lines += _page(admin, width)
    if proxy.get("stopping"):
        lines.append(line([Cell("the proxy is stopping", "yellow")], width=width))
    lines += _upgrade(proxy, now, width, stories)
    for trouble in _troubles(proxy.get("trouble")):
        lines += _machine(trouble, now, width)
    return lines


def _page(admin: Json, width: int | None) -> list[str]:
    url = f"http{'s' if admin['tls'] else ''}://{admin['address']}/"
    forms = [f"admin page {url}, with a token", f"admin page {url}"] if admin["tokens"] else [f"admin page {url}"]
    return [paint(best(forms, width), "dim")]


def _limits(descriptors: int, width: int | None) -> list[str]:
    text = f"room for about {descriptors // 2} connections in each worker"
    forms = [f"{text} ({descriptors} file descriptors)", text, f"room for {descriptors // 2} in each worker", ""]
    return [paint(text, "dim") for text in [best(forms, width)] if text]


def _upgrade(proxy: Json, now: float, width: int | None, stories: Collection[Story]) -> list[str]:
    """One that is under way, or the last one where it failed."""
    if under_way := proxy.get("upgrade"):
        story = next((each for each in stories if isinstance(each, UpgradeProgress)), UpgradeProgress(under_way))
        text = f"upgrade from {under_way['from']} in phase {under_way['phase']}, for {age(now - under_way['started'])}"
        lines = wrapped(text, width) + fold(phases.passing(story, now), width, first="  ", rest="  ", gap="  ")
        return [paint(part, "yellow") for part in lines]
    last = proxy.get("last_upgrade")
    if last is None or last["result"] == "upgraded":
        return []
    text = f"the upgrade of {age(now - last['finished'])} ago failed: {last['error']}"
    return [paint(part, "red") for part in wrapped(text, width)]


def _troubles(found: str | list[Json] | None) -> list[Json]:
    """Proxies of the release before say it in one string, empty where there is none."""
    if isinstance(found, str):
        return [{"message": found}] if found else []
    return found or []


def _machine(trouble: Json, now: float, width: int | None) -> list[str]:
    """What is wrong around the proxy, since when, and what to do about it."""
    since = f" (for {age(now - trouble['since'])})" if trouble.get("since") else ""
    lines = [paint(text, "red") for text in wrapped(f"trouble: {trouble['message']}{since}", width)]
    return lines + [paint(text, "dim") for text in wrapped(trouble.get("hint", ""), width, first="  ")]


def _service(name: str, service: Json, now: float, width: int | None, stories: Collection[Story]) -> list[str]:
    generations = sorted(service["generations"], key=lambda each: each["id"], reverse=True)
    lines = _head(name, service, width)
    lines += [paint(part, "yellow") for part in wrapped(fallback(service), width, first="  ")]
    if generations:
        lines += _generations(service, generations, now, width)
    for story in _stories(name, service, stories):
        lines += _story(story, now, width)
    for generation in generations:
        several = len(generation["replicas"]) > 1 or len(generations) > 1
        for index, replica in enumerate(generation["replicas"]):
            if not replica["healthy"] or replica["restarts"]:
                where = (
                    f"generation {generation['id']} replica {replica.get('replica', index)}" if several else "backend"
                )
                trouble = _trouble(replica, brief=width is not None and width < _ROOMY)
                text = wrapped(f"{where} {trouble}", width, first="  ", rest="    ")
                lines += [paint(part, "yellow") for part in text]
    if last := service["last_swap"]:
        lines += _last(last, now, width)
    return lines


def _head(name: str, service: Json, width: int | None) -> list[str]:
    """Where there is no room for all of it, the name, the state and the version."""
    state = service["state"]
    cells = [
        Cell(name, "bold"),
        Cell(state, _color(state)),
        Cell(service["active"] or "no version"),
        Cell("on " + ", ".join(service["listen"])),
        Cell(f"({service['protocol']}, {service['datapath']})", "dim"),
    ]
    for count in (5, 4, 3):
        if width is None or span(" ".join(cell.text for cell in cells[:count])) <= width:
            return [line(cells[:count], width=width, gap=" ")]
    return [paint(text, _color(state)) for text in fold([cell.text for cell in cells[:3]], width)]


def _generations(service: Json, generations: list[Json], now: float, width: int | None) -> list[str]:
    """The table, below each generation that is draining how far that is."""
    steers = _datapaths(service)[0] == "steer"
    more = (*(_REQUESTS if _knows_requests(generations[0]) else ()), *(_STEERING if steers else ()))
    rows = [_generation(each, now, steers=steers) for each in generations]
    head, *shown = table((*_BEFORE, *more, *_AFTER), rows, width=width, indent=2)
    lines = head
    for generation, row in zip(generations, shown, strict=True):
        lines += row
        if (drain := generation["drain"]) and generation["state"] == "draining":
            margin = "  " if width and width < _ROOMY else "    "
            room = width and width - len(margin)
            text = phases.drain(drain["remaining"], drain["initial"], drain["deadline"] - now, room=room)
            lines.append(margin + paint(text, "yellow"))
    return lines


def under_way(service: Json) -> Json | None:
    """The operation that has not ended; for a moment the status has one both here and as the last one."""
    operation: Json | None = service.get("operation")
    return None if operation and Progress(operation).is_result(service["last_swap"]) else operation


def _stories(name: str, service: Json, stories: Collection[Story]) -> list[Story]:
    found: list[Story] = [each for each in stories if isinstance(each, Progress) and each.begun["service"] == name]
    operation = under_way(service)
    if operation and all(story.begun["id"] != operation["id"] for story in found):
        found.append(Progress(operation))
    return found


def _story(story: Story, now: float, width: int | None) -> list[str]:
    begun = story.begun
    current = next(reversed(story.phases), begun.get("phase", ""))
    text = f"{_kind(begun) if 'kind' in begun else 'an operation'}: {current}"
    if started := begun.get("started"):
        text += f", for {age(now - started)}"
    lines = wrapped(text, width, first="  ", rest="    ")
    lines += fold(phases.passing(story, now), width, first="    ", rest="    ", gap="  ")
    return [paint(part, "yellow") for part in lines]


def _datapaths(service: Json) -> tuple[str, str, str]:
    """The one that is configured, the one in effect, and why it is another; a proxy of the release before has one."""
    effective: str = service["datapath"]
    return service.get("datapath_configured", effective), effective, service.get("datapath_reason", "")


def fallback(service: Json) -> str:
    """What to say of a service whose data path is not the configured one; empty where it is."""
    configured, effective, reason = _datapaths(service)
    if configured == effective:
        return ""
    return f'"{configured}" is configured, and "{effective}" in effect' + (f": {reason}" if reason else "")


def _generation(generation: Json, now: float, *, steers: bool) -> list[str | Cell]:
    replicas = generation["replicas"]
    healthy = sum(replica["healthy"] for replica in replicas)
    sick = healthy < len(replicas) and generation["state"] in {"active", "draining", "warm"}
    return [
        str(generation["id"]),
        generation["version"],
        Cell(generation["state"], _color(generation["state"])),
        str(generation["connections"]),
        *([str(generation["in_flight"])] if _knows_requests(generation) else []),
        *([str(generation.get(name, 0)) for name in ("steered", "fallen_through")] if steers else []),
        Cell(f"{healthy} of {len(replicas)}", "red" if sick else ""),
        age(now - generation["since"]),
    ]


def _knows_requests(generation: Json) -> bool:
    """Whether the service's protocol is "http"; all generations of a service say the same."""
    return generation.get("in_flight") is not None


def _trouble(replica: Json, *, brief: bool) -> str:
    """`(127.0.0.1:20001, process 33) is not healthy: connection refused; restarted 3 times`."""
    facts = [str(replica["address"])] if replica["address"] else []
    facts += [f"process {replica['pid']}"] if replica["pid"] else []
    words = f"({', '.join(facts)}) " if facts and not brief else ""
    words += "is healthy" if replica["healthy"] else "is not healthy"
    if reason := replica.get("reason"):
        words += f": {reason}"
    if restarts := replica["restarts"]:
        words += f"; restarted {plural(restarts, 'time')}"
    return words


def _last(last: Json, now: float, width: int | None) -> list[str]:
    ago = f"{age(now - last['finished'])} ago"
    if last["result"] == "swapped":
        facts = [f"took {took(outcome.duration(last))}", outcome.drained(last), outcome.overlap(last)]
        told = [f"  last: {_kind(last)}, {ago}", *filter(None, facts)]
        return [paint(best([", ".join(told[:count]) for count in range(len(told), 0, -1)], width), "dim")]
    text = f"last: {_kind(last)} {last['result'].replace('_', ' ')}, {ago}: {last['error'] or 'no reason was given'}"
    return [paint(part, "red") for part in wrapped(text, width, first="  ", rest="    ")]


def _kind(operation: Json) -> str:
    """`swap v1 -> v2`, `restart v1`."""
    kind, origin, target = operation.get("kind", "swap"), operation["from"], operation["to"]
    return f"{kind} {target}" if kind == "restart" or origin is None else f"{kind} {origin} -> {target}"


def _color(state: str) -> str:
    return _COLORS.get(state, "yellow")
