"""For the tests of services that are steered."""

from __future__ import annotations

import pytest

from tests.e2e.steer.machine import need_steering


@pytest.fixture(autouse=True, scope="session")
def _machine() -> None:
    need_steering()
