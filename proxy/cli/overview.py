"""The status as text: what a person needs at 3 a.m., most important first."""

from __future__ import annotations

import textwrap
from typing import Any

from proxy.cli import outcome
from proxy.cli.table import Cell, line, table
from proxy.cli.terminal import age, paint, plural, took

Json = dict[str, Any]

_COLORS = {
    "serving": "green",
    "active": "green",
    "down": "red",
    "failed": "red",
    "warm": "dim",
    "stopping": "dim",
}  # everything else is on its way: yellow

_GENERATION = (" GEN", "VERSION", "STATE", " CONNECTIONS", "HEALTHY", " AGE")
_REQUESTS = (" IN FLIGHT",)  # only where requests are understood
_STEERING = (" STEERED", " FELL THROUGH")  # only where connections are to be steered


def overview(status: Json, *, now: float, width: int | None) -> list[str]:
    """The lines of `proxyctl status` at the Unix time `now`, none wider than `width`."""
    lines = _proxy(status["proxy"], now, width)
    for name, service in status["services"].items():
        lines += ["", *_service(name, service, now, width)]
    return lines


def _proxy(proxy: Json, now: float, width: int | None) -> list[str]:
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
    lines = [line([Cell(", ".join(facts), "bold")], width=width)]
    if limits := proxy.get("limits"):
        descriptors = limits["descriptors"]
        text = f"room for about {descriptors // 2} connections in each worker ({descriptors} file descriptors)"
        lines.append(line([Cell(text, "dim")], width=width))
    if proxy.get("stopping"):
        lines.append(line([Cell("the proxy is stopping", "yellow")], width=width))
    lines += _upgrade(proxy, now, width)
    for trouble in _troubles(proxy.get("trouble")):
        lines += _machine(trouble, now, width)
    return lines


def _upgrade(proxy: Json, now: float, width: int | None) -> list[str]:
    """One that is under way, or the last one where it failed."""
    if under_way := proxy.get("upgrade"):
        text = f"upgrade from {under_way['from']} in phase {under_way['phase']}, for {age(now - under_way['started'])}"
        return [line([Cell(text, "yellow")], width=width)]
    last = proxy.get("last_upgrade")
    if last is None or last["result"] == "upgraded":
        return []
    text = f"the upgrade of {age(now - last['finished'])} ago failed: {last['error']}"
    return [paint(part, "red") for part in _wrapped(text, width)]


def _troubles(found: str | list[Json] | None) -> list[Json]:
    """Proxies of the release before say it in one string, empty where there is none."""
    if isinstance(found, str):
        return [{"message": found}] if found else []
    return found or []


def _machine(trouble: Json, now: float, width: int | None) -> list[str]:
    """What is wrong around the proxy, since when, and what to do about it."""
    since = f" (for {age(now - trouble['since'])})" if trouble.get("since") else ""
    lines = [paint(text, "red") for text in _wrapped(f"trouble: {trouble['message']}{since}", width)]
    return lines + [paint(text, "dim") for text in _wrapped("  " + trouble.get("hint", ""), width)]


def _wrapped(text: str, width: int | None) -> list[str]:
    """A sentence whose end matters as much as its beginning."""
    return textwrap.wrap(text, width or 1000, subsequent_indent="  ")


def _service(name: str, service: Json, now: float, width: int | None) -> list[str]:
    state = service["state"]
    head = [
        Cell(name, "bold"),
        Cell(state, _color(state)),
        service["active"] or "no version",
        "on " + ", ".join(service["listen"]),
        Cell(f"({service['protocol']}, {service['datapath']})", "dim"),
    ]
    generations = sorted(service["generations"], key=lambda each: each["id"], reverse=True)
    lines = [line(head, width=width, gap=" ")]
    lines += [paint(part, "yellow") for part in _wrapped("  " + fallback(service), width)]
    if generations:
        steers = _datapaths(service)[0] == "steer"
        more = (*(_REQUESTS if _knows_requests(generations[0]) else ()), *(_STEERING if steers else ()))
        heads = (*_GENERATION[:4], *more, *_GENERATION[4:])
        rows = [_generation(each, now, steers=steers) for each in generations]
        lines += table(heads, rows, width=width, indent=2)
    for generation in generations:
        several = len(generation["replicas"]) > 1 or len(generations) > 1
        for index, replica in enumerate(generation["replicas"]):
            if not replica["healthy"] or replica["restarts"]:
                where = (
                    f"generation {generation['id']} replica {replica.get('replica', index)}" if several else "backend"
                )
                lines.append(line([Cell(f"  {where} {_trouble(replica)}", "yellow")], width=width))
    if operation := service.get("operation"):
        text = f"  {_kind(operation)}: {operation['phase']}, for {age(now - operation['started'])}"
        lines.append(line([Cell(text, "yellow")], width=width))
    if last := service["last_swap"]:
        lines += _last(last, now, width)
    return lines


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
    row: list[str | Cell] = [
        str(generation["id"]),
        generation["version"],
        Cell(generation["state"], _color(generation["state"])),
        str(generation["connections"]),
        *([str(generation["in_flight"])] if _knows_requests(generation) else []),
        *([str(generation.get(name, 0)) for name in ("steered", "fallen_through")] if steers else []),
        Cell(f"{healthy} of {len(replicas)}", "red" if sick else ""),
        age(now - generation["since"]),
    ]
    if drain := generation["drain"]:
        left = age(drain["deadline"] - now)
        row.append(Cell(f"{drain['remaining']} of {drain['initial']} left to drain, closed in {left}", "yellow"))
    return row


def _knows_requests(generation: Json) -> bool:
    """Whether the service's protocol is "http"; all generations of a service say the same."""
    return generation.get("in_flight") is not None


def _trouble(replica: Json) -> str:
    """`(127.0.0.1:20001, process 33) is not healthy: connection refused; restarted 3 times`."""
    facts = [str(replica["address"])] if replica["address"] else []
    facts += [f"process {replica['pid']}"] if replica["pid"] else []
    words = f"({', '.join(facts)}) " if facts else ""
    words += "is healthy" if replica["healthy"] else "is not healthy"
    if reason := replica.get("reason"):
        words += f": {reason}"
    if restarts := replica["restarts"]:
        words += f"; restarted {plural(restarts, 'time')}"
    return words


def _last(last: Json, now: float, width: int | None) -> list[str]:
    took_text = took(outcome.duration(last))
    ago = f"{age(now - last['finished'])} ago"
    if last["result"] == "swapped":
        facts = filter(None, [outcome.drained(last), outcome.overlap(last)])
        text = f"  last: {_kind(last)}, {ago}, took {took_text}, {', '.join(facts)}"
        return [line([Cell(text, "dim")], width=width)]
    text = f"  last: {_kind(last)} {last['result'].replace('_', ' ')}, {ago}: {last['error'] or 'no reason was given'}"
    return [line([Cell(text, "red")], width=width)]


def _kind(operation: Json) -> str:
    """`swap v1 -> v2`, `restart v1`."""
    kind, origin, target = operation.get("kind", "swap"), operation["from"], operation["to"]
    return f"{kind} {target}" if kind == "restart" or origin is None else f"{kind} {origin} -> {target}"


def _color(state: str) -> str:
    return _COLORS.get(state, "yellow")
