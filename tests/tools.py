"""What tests need from the machine: a program that is missing skips a test on a user's machine, and fails it in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

# Debian keeps daemons where an ordinary user's PATH does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def need(program: str, *, package: str) -> str:
    """Return the program's path, or skip the test and say which package to install (REQUIRE_ALL=1: fail)."""
    path = shutil.which(program, path=_PATH)
    if path is None:
        missing(f"{program} is not installed: apt-get install {package}")
    return path


def missing(reason: str) -> NoReturn:
    """Skip with the reason; with REQUIRE_ALL=1, where nothing may be skipped, fail."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
