"""What stands in the state file, in this release's words and in those of the one before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.control.record import Record
from proxy.control.state import (
    FORMAT,
    DepartureRecord,
    GenerationRecord,
    OperationRecord,
    ProcessRecord,
    ServiceRecord,
    State,
    UpgradeRecord,
    dump,
    parse,
)

# Written by the release before the state knew operations, recipes and departures.
FORMAT_1 = b"""{
 "format": 1,
 "boot": "3d2ed91c-28d6-4f46-9a22-833112b7c9c1",
 "workers": [{"pid": 101, "start_time": 5000}, {"pid": 102, "start_time": 5001}],
 "services": {
  "web": {
   "next_generation": 4,
   "active": "v2",
   "configured": "v1",
   "previous": "v1",
   "known": {"v2": ["./app", "--port", "{port}"]},
   "generations": [
    {
     "id": 3,
     "version": "v2",
     "state": "active",
     "backends": [
      {
       "service": "web",
       "version": "v2",
       "generation": 3,
       "replica": 0,
       "pid": 201,
       "start_time": 6000,
       "address": "127.0.0.1:20001",
       "port": 20001,
       "started": 1789000000.5,
       "supervisor": "3d2ed91c-28d6-4f46-9a22-833112b7c9c1:100:4999:/var/lib/proxyctl"
      }
     ]
    }
   ]
  }
 }
}
"""


def backend(**values: Any) -> Record:
    known: dict[str, Any] = {
        "service": "web",
        "version": "v2",
        "generation": 3,
        "replica": 0,
        "pid": 201,
        "start_time": 6000,
        "address": "unix:/run/app.sock",
        "port": None,
        "started": 1.5,
        "supervisor": "boot:1:2:/state",
    }
    return Record(**known | values)


def full() -> State:
    """Every field has a value that is not its default."""
    departure = DepartureRecord(began=1.5, deadline=2.5, initial=9, forced=1, operation=7, warm_until=99.5)
    generation = GenerationRecord(
        id=3,
        version="v2",
        state="warm",
        backends=[backend(), backend(replica=1, pid=202)],
        since=3.5,
        recipe={"command": ["./app"], "replicas": 2, "env": {"A": "é\n"}},
        restarts={"1": 4},
        signalled=True,
        inherits=True,
        departure=departure,
    )
    operation = OperationRecord(
        id=7,
        kind="rollback",
        origin="v2",
        target="v1",
        began=4.5,
        phase="drain",
        seconds={"start": 0.25},
        generation=4,
        old=3,
        drain_limit=30.0,
        baked_until=77.5,
        undone="it fell over",
        drained=6,
        forced=3,
        by={"via": "socket", "from": "pid 7", "as": "root"},
    )
    service = ServiceRecord(
        next_generation=5,
        active="v1",
        configured="v2",
        previous="v2",
        previous_generation=3,
        previous_recipe={"command": ["./app"]},
        paused=True,
        known={"x": ["run", "me"]},
        generations=[generation],
        operations=[operation],
    )
    return State(
        boot="a boot",
        config="[services.web]\n",
        next_operation=8,
        workers=[ProcessRecord(pid=1, start_time=2, socket="00ff")],
        services={"web": service},
        upgrade=UpgradeRecord(id=6, old="0.1.0", began=5.5, running_since=6.5, replaced=7.5, seconds={"check": 0.5}),
    )


def test_everything_is_read_back() -> None:
    assert parse(dump(full())) == full()
    assert parse(dump(State())) == State(boot=State().boot)


def test_every_field_was_tried() -> None:
    """A field that is added has to be added here too: what is not read back is lost in an upgrade."""

    def assert_set(values: dict[str, Any], defaults: type[Any]) -> None:
        for name, field in defaults.model_fields.items():
            assert name == "format" or values[name] != field.get_default(call_default_factory=True), name

    state = full()
    service = state.services["web"]
    (generation,), (operation,) = service.generations, service.operations
    assert generation.departure
    assert state.upgrade
    for each in (state, service, generation, generation.departure, operation, state.upgrade, *state.workers):
        assert_set(dict(each), type(each))


def test_the_state_of_the_release_before_is_read() -> None:
    state = parse(FORMAT_1)
    assert state.format == FORMAT
    assert state.workers == [ProcessRecord(pid=101, start_time=5000), ProcessRecord(pid=102, start_time=5001)]
    web = state.services["web"]
    assert (web.next_generation, web.active, web.configured, web.previous) == (4, "v2", "v1", "v1")
    assert web.known == {"v2": ["./app", "--port", "{port}"]}
    (generation,) = web.generations
    assert (generation.id, generation.version, generation.state) == (3, "v2", "active")
    (found,) = generation.backends
    assert (found.pid, found.start_time, found.address, found.port) == (201, 6000, "127.0.0.1:20001", 20001)
    assert (web.operations, generation.recipe, generation.departure, web.paused) == ([], {}, None, False)
    assert parse(dump(state)) == state, "and it is written in the format of this release"
    assert json.loads(dump(state))["format"] == FORMAT


@pytest.mark.parametrize("found", [0, FORMAT + 1, 99, None, "2", 2.5, [2], {}], ids=repr)
def test_a_format_that_is_not_known_is_refused_by_its_number(found: Any) -> None:
    values = json.loads(dump(full())) | {"format": found}
    with pytest.raises(ValueError, match=r"^format .*, this release reads 1, 2, 3, 4$"):
        parse(json.dumps(values).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b"null", b"2", b'"x"', b"{}"], ids=repr)
def test_what_is_no_state_at_all_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("services", "web", "next_generation"), 0),
        (("services", "web", "next_generation"), "4"),
        (("services", "web", "generations", 0, "backends", 0, "pid"), 1),
        (("services", "web", "generations", 0, "backends", 0, "address"), "nowhere"),
        (("services", "web", "generations", 0, "surprise"), 1),
        (("workers", 0, "start_time"), None),
        (("surprise",), 1),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else repr(value),
)
def test_what_makes_no_sense_is_refused_as_a_whole(path: tuple[Any, ...], value: Any) -> None:
    values = json.loads(FORMAT_1)
    place = values
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"."):
        parse(json.dumps(values).encode())
