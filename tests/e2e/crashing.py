"""The control process, made to die of SIGKILL at a point of the test's choice. The product knows nothing of it.

    crashing.py [POINT] -- ARGUMENTS OF proxy.main

Functions of the product are wrapped before it starts. The process dies at POINT, or at the one that an order names: the
file `$CRASH_ORDER`, which may come and go while the proxy runs. One process so is good for many orders, also when it
replaces its code by an upgrade.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ORDER = "CRASH_ORDER"

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Order:
    """Where to die, and in which operation: on a service, to a version, by a generation. Nothing given: in any."""

    point: str
    service: str = ""
    version: str = ""
    generation: int = 0

    def write(self, path: Path) -> None:
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(asdict(self)))
        aside.rename(path)

    @classmethod
    def read(cls, path: Path) -> Order | None:
        """The order in force; None when there is none."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None


Condition = Callable[[Order, Arguments], bool]


def _always(_order: Order, _arguments: Arguments) -> bool:
    return True


@dataclass(frozen=True)
class Point:
    """Before or after the `nth` call of `target`, `MODULE:FUNCTION` or `MODULE:CLASS.METHOD`, among those that fulfil
    `condition`. Calls before the order was given do not count.
    """

    target: str
    moment: str
    nth: int = 1
    condition: Condition = _always


def _sends(kind: str, *, new: bool = False) -> Condition:
    """A message to a worker; `new`: that names the order's generation."""

    def condition(order: Order, arguments: Arguments) -> bool:
        message = json.loads(arguments[1][0])
        return bool(
            message["t"] == kind
            and (not order.service or message.get("service") == order.service)
            and (not new or message["generation"] == order.generation)
        )

    return condition


def _on_file(test: Callable[[Order, dict[str, Any]], bool]) -> Condition:
    """The state file is replaced by one in which the service's record is so."""

    def condition(order: Order, arguments: Arguments) -> bool:
        path, data = arguments
        return path.name == "state.json" and test(order, json.loads(data)["services"][order.service])

    return condition


def _has_operation(_order: Order, record: dict[str, Any]) -> bool:
    return bool(record["operations"])


def _has_backend(order: Order, record: dict[str, Any]) -> bool:
    """The new generation's, that is."""
    return any(each["id"] == order.generation and each["backends"] for each in record["generations"])


def _has_switched(order: Order, record: dict[str, Any]) -> bool:
    return bool(record["active"] == order.version)


def _is_paused(_order: Order, record: dict[str, Any]) -> bool:
    return bool(record["paused"])


def _steers(order: Order, arguments: Arguments) -> bool:
    """The kernel is told to hand connections to the new generation."""
    _, service, generation = arguments
    return bool((service, generation) == (order.service, order.generation))


def _decides(_order: Order, arguments: Arguments) -> bool:
    return bool(arguments[1] == b"1")


_WRITE = "proxy.control.files:replace"
_SEND = "trio._socket:_SocketType.sendmsg"
_SWITCH = "proxy.control.workers:WorkerPool.switch"
_STEER = "proxy.control.steering:Steering.switch"
_LISTEN = "proxy.control.workers:WorkerPool.listen"
_ROUTE = "proxy.control.workers:WorkerPool.route"
_CLOSE = "proxy.control.workers:WorkerPool.close"
_LAUNCH = "proxy.control.launch:launch"
_STOP = "proxy.control.generation:Generation.stop"
_BESIDE = "proxy.control.workers:WorkerPool.start_beside"
_TELL = "proxy.control.workers:WorkerPool.tell"
_RELIEVE = "proxy.control.relief:relieve"

POINTS = {
    # A swap, a restart or a rollback by one.
    "accepted": Point("proxy.control.app:App.swap", "after"),
    "operation-not-on-file": Point(_WRITE, "before", condition=_on_file(_has_operation)),
    "operation-on-file": Point(_WRITE, "after", condition=_on_file(_has_operation)),
    "before-spawn": Point(_LAUNCH, "before"),
    "spawned": Point(_LAUNCH, "after"),
    "between-replicas": Point(_LAUNCH, "before", nth=2),
    "all-spawned": Point(_LAUNCH, "after", nth=2),
    "backend-not-on-file": Point(_WRITE, "before", condition=_on_file(_has_backend)),
    "backend-on-file": Point(_WRITE, "after", condition=_on_file(_has_backend)),
    "healthy": Point("proxy.control.generation:Generation.ready", "after"),
    # Its switch, or any other.
    "before-switch": Point(_SWITCH, "before"),
    "hold-sent-to-one": Point(_SEND, "after", condition=_sends("hold")),
    "hold-sent-to-all": Point(_SEND, "after", nth=2, condition=_sends("hold")),
    "held": Point("os:pwrite", "before", condition=_decides),
    "decided": Point("os:pwrite", "after", condition=_decides),
    "before-steering": Point(_STEER, "before", condition=_steers),
    "steered": Point(_STEER, "after", condition=_steers),
    "route-sent-to-one": Point(_SEND, "after", condition=_sends("route", new=True)),
    "route-sent-to-all": Point(_SEND, "after", nth=2, condition=_sends("route", new=True)),
    "switched": Point(_SWITCH, "after"),
    "switch-not-on-file": Point(_WRITE, "before", condition=_on_file(_has_switched)),
    "switch-on-file": Point(_WRITE, "after", condition=_on_file(_has_switched)),
    # What comes after it.
    "drain-begins": Point("proxy.control.drain:Departure.run", "before"),
    "draining": Point("proxy.control.drain:Departure._progress", "after"),
    "deadline": Point(_CLOSE, "before"),
    "closed": Point(_CLOSE, "after"),
    "before-stop": Point(_STOP, "before"),
    "stopped": Point(_STOP, "after"),
    "before-history": Point("proxy.metrics.metrics:Metrics.swapped", "after"),
    "history-written": Point("proxy.control.operation:Operation._log", "before"),
    "bake-begins": Point("proxy.control.swap:_bake", "before"),
    "baking": Point("proxy.control.service:Service.replaced", "before"),
    "before-undo": Point("proxy.control.service:Service.undo", "before"),
    "undone": Point("proxy.control.service:Service.undo", "after"),
    # Other things that control does.
    "before-pause": Point(_ROUTE, "before"),
    "pause-sent-to-one": Point(_SEND, "after", condition=_sends("route")),
    "paused": Point(_ROUTE, "after"),
    "pause-not-on-file": Point(_WRITE, "before", condition=_on_file(_is_paused)),
    "reload-begins": Point("proxy.control.reload:Reload.perform", "before"),
    "reload-binds": Point("proxy.control.listeners:bind", "after"),
    "reload-reconfigures": Point("proxy.control.service:Service.reconfigure", "before"),
    "reload-listens": Point(_LISTEN, "after"),
    "reload-adds": Point("proxy.control.app:App.start_service", "before"),
    "reloaded": Point("proxy.control.reload:Reload.perform", "after"),
    "close-begins": Point("proxy.control.service:Service.close", "before"),
    "deaf": Point(_LISTEN, "after"),
    "ended": Point(_ROUTE, "after", nth=2),
    "service-closed": Point("proxy.control.service:Service.close", "after"),
    # Taking over what another control process left.
    "state-read": Point("proxy.control.state_file:StateFile.load", "after"),
    "one-worker-found": Point("proxy.control.worker:_find", "after"),
    "workers-found": Point("proxy.control.worker:find", "after"),
    "judged": Point("proxy.control.adoption:judge", "after"),
    "backend-adopted": Point("proxy.control.backend:adopt", "after"),
    "workers-told": Point("proxy.control.workers:WorkerPool.run", "before"),
    "service-added": Point("proxy.control.workers:WorkerPool.add", "after"),
    "api-not-served": Point("proxy.api.server:serve", "before"),
    # An upgrade of the proxy itself: before the exec, after it, and while workers are relieved.
    "rehearsed": Point("proxy.control.upgrade:Upgrade._rehearse", "after"),
    "before-exec": Point("os:execve", "before"),
    "after-exec": Point("proxy.control.upgrade:Upgrade.resume", "after"),
    "before-newcomer": Point(_BESIDE, "before"),
    "newcomer-starts": Point("proxy.control.worker:start", "after"),
    "newcomer-ready": Point(_BESIDE, "after"),
    "handover-sent": Point(_SEND, "after", condition=_sends("handover")),
    "takeover-sent": Point(_SEND, "after", condition=_sends("takeover")),
    "taken": Point("proxy.control.relief:_outcome", "after"),
    "newcomer-told": Point(_TELL, "after"),
    "old-told": Point(_TELL, "after", nth=2),
    "relieved-one": Point(_RELIEVE, "after"),
    "relieved-all": Point(_RELIEVE, "after", nth=2),
    "exit-sent": Point(_SEND, "after", condition=_sends("exit")),
}


class Executioner:
    """Counts calls, and kills the process when the order's is due."""

    def __init__(self, find_order: Callable[[], Order | None]) -> None:
        self._find_order = find_order
        self._order: Order | None = None
        self._seen: Counter[str] = Counter()

    def wrap(self, target: str) -> None:
        """Put a function that watches in the place of a function. Raises AttributeError if there is none."""
        owner, name = resolve(target)
        function = getattr(owner, name)
        points = {name: point for name, point in POINTS.items() if point.target == target}

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def watching(*args: Any, **options: Any) -> Any:
                due = self._due(points, args)
                self._obey(due, "before")
                result = await function(*args, **options)
                self._obey(due, "after")
                return result

        else:

            @functools.wraps(function)
            def watching(*args: Any, **options: Any) -> Any:
                due = self._due(points, args)
                self._obey(due, "before")
                result = function(*args, **options)
                self._obey(due, "after")
                return result

        setattr(owner, name, watching)
        for module in [each for key, each in sys.modules.items() if key.startswith("proxy.")]:
            for known in [known for known, value in vars(module).items() if value is function]:
                setattr(module, known, watching)  # it was imported by its own name

    def _due(self, points: dict[str, Point], arguments: Arguments) -> Point | None:
        """The point at which to die, if it is this call."""
        order = self._find_order()
        if order != self._order:
            self._order = order
            self._seen.clear()
        point = points.get(order.point) if order else None
        if order is None or point is None or not point.condition(order, arguments):
            return None
        self._seen[order.point] += 1
        return point if self._seen[order.point] == point.nth else None

    def _obey(self, point: Point | None, moment: str) -> None:
        if point and point.moment == moment:
            os.kill(os.getpid(), signal.SIGKILL)


def resolve(target: str) -> tuple[Any, str]:
    """The module or class that a target's function belongs to, and its name there. Raises AttributeError."""
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    if not callable(getattr(owner, name)):
        raise TypeError(f"{target} is not a function")
    return owner, name


def _outlive_exec(order: Path) -> None:
    """Let the code that an upgrade executes run under this file as well."""
    execve = os.execve

    def replaced(path: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
        arguments = command[command.index("proxy.main") + 1 :]
        execve(path, (path, "-P", __file__, "--", *arguments), {**environment, ORDER: str(order)})

    os.execve = replaced  # type: ignore[assignment]


def main() -> int:
    mine, arguments = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    path = Path(os.environ.pop(ORDER, "/nonexistent"))
    if mine and mine[0] not in POINTS:
        sys.exit(f"no point {mine[0]}; there are {', '.join(POINTS)}")
    first = Order(mine[0]) if mine else None
    executioner = Executioner(lambda: first or Order.read(path))
    from proxy import main as program  # before anything is wrapped, so that all of it is there

    _outlive_exec(path)
    for target in dict.fromkeys(point.target for point in POINTS.values()):
        executioner.wrap(target)
    with suppress(KeyboardInterrupt):
        return program.main(arguments)
    return 1


if __name__ == "__main__":
    sys.exit(main())
