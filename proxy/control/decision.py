"""What the config file said when it was decided which version is to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tomli

if TYPE_CHECKING:
    from pathlib import Path


def configured_active(path: Path, service: str) -> str | None:
    """What the file says about `active` now; None where it cannot be read or does not say."""
    try:
        active = tomli.loads(path.read_text())["services"][service]["active"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return active if isinstance(active, str) else None
