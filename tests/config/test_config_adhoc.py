"""`swap X --command` must run the new command as the service is run now, and refuse what could not be configured."""

from pathlib import Path

import pytest

from proxy.config import Service, Version, adhoc_version
from proxy.core.address import Address
from proxy.errors import UsageError


def service(**version: object) -> Service:
    active = Version.model_validate({"name": "v1", **version})
    return Service(name="web", listen=(Address("127.0.0.1", 80),), active="v1", versions={"v1": active})


def test_the_new_command_runs_as_the_active_version_does(tmp_path: Path) -> None:
    web = service(command="./app", replicas=3, env={"A": "1"}, cwd=str(tmp_path), output="inherit")

    assert adhoc_version("v2", ["./new", "{port}"], web) == Version(
        name="v2", command=("./new", "{port}"), replicas=3, env={"A": "1"}, cwd=tmp_path, output="inherit"
    )


def test_beside_an_address_the_new_command_runs_with_the_defaults() -> None:
    assert adhoc_version("v2", ["./new"], service(address="10.0.0.5:80")) == Version(name="v2", command=("./new",))


@pytest.mark.parametrize(
    ("name", "command", "message"),
    [
        ("a/b", ["./new"], "cannot be a version name"),
        ("v2", [], "a command cannot be empty"),
        ("v2", [""], "the program, and it is empty"),
        ("v2", ["./new", "{prot}"], "unknown placeholder {prot}"),
        ("v2", ["./new", "{port}", "{socket}"], "both used"),
        ("v2", ["./new", "a\0b"], "NUL"),
    ],
)
def test_what_a_file_could_not_say_is_refused(name: str, command: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adhoc_version(name, command, service(command="./app"))


def test_the_data_path_decides_what_a_new_command_may_use() -> None:
    relayed = service(command="./app")
    inherits = relayed.model_copy(update={"datapath": "inherit"})

    assert adhoc_version("v2", ["./new", "{fd}"], inherits).command == ("./new", "{fd}")
    with pytest.raises(UsageError, match='only datapath "inherit" gives'):
        adhoc_version("v2", ["./new", "{fd}"], relayed)
    with pytest.raises(UsageError, match=r"not on \{socket\}"):
        adhoc_version("v2", ["./new", "{socket}"], inherits)
