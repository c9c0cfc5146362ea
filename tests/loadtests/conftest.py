"""For the load tests' scenarios: this proxy as the relay, in front of the real backends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from loadtests.backends import backends
from loadtests.model import HTTP, TCP
from loadtests.proxyctl import proxyctl
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.model import Backends, Running


@pytest.fixture(params=[TCP, HTTP])
def relayed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Running, Backends]]:
    need("nginx", package="nginx-light")
    for folder in (tmp_path, tmp_path / "backends", tmp_path / "relay"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # nginx's workers run as another user
    with ExitStack() as stack:
        behind = stack.enter_context(backends(tmp_path / "backends"))
        yield stack.enter_context(proxyctl(request.param, 1).start(tmp_path / "relay", behind)), behind
