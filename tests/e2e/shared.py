"""One proxy for the tests of a module, with a service for each: starting a proxy takes longer than most tests do."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import configs
from tests.e2e.harness import Proxy, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Shared:
    """Its services are as they were at the start until their tests use them: one test for each, or two for a pair."""

    proxy: Proxy
    ports: dict[str, int]

    def __call__(self, name: str) -> tuple[Proxy, int]:
        """The proxy, as if it had this service alone, and the service's port. Events are those of all services."""
        proxy = copy.copy(self.proxy)
        proxy.default = name
        return proxy, self.ports[name]


def shared_by(*, workers: int = 1, **services: dict[str, str]) -> Any:
    """A fixture of the module: a proxy with these services, each as the keys of configs.service."""

    @pytest.fixture(scope="module")
    def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
        ports = {name: free_port() for name in services}
        tables = [configs.service(ports[name], name=name, **keys) for name, keys in services.items()]
        with Proxy(tmp_path_factory.mktemp("shared"), f"workers = {workers}\n{''.join(tables)}") as proxy:
            yield Shared(proxy, ports)

    return shared
