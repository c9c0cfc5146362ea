"""One proxy for the tests of a module, with a service that is steered for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.harness import free_port
from tests.e2e.shared import Shared
from tests.e2e.steer.harness import Steered, service

if TYPE_CHECKING:
    from collections.abc import Iterator


def steered_by(**services: dict[str, Any]) -> Any:
    """A fixture of the module: a proxy with these services, each as the keys of `service`; see tests.e2e.shared.

    `hosts` are the addresses that a service listens on, where that is not 127.0.0.1.
    """

    @pytest.fixture(scope="module")
    def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
        ports = {name: free_port() for name in services}
        tables = []
        for name, keys in services.items():
            hosts = keys.get("hosts", ("127.0.0.1",))
            others = {key: value for key, value in keys.items() if key != "hosts"}
            tables.append(service([f"{host}:{ports[name]}" for host in hosts], name=name, **others))
        with Steered(tmp_path_factory.mktemp("steered"), "".join(tables)) as proxy:
            yield Shared(proxy, ports)

    return shared
