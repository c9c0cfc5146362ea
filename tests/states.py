"""What becomes of a state on its way to another process."""

from __future__ import annotations

import base64
import json
from typing import Any


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return what is left of a state that was written down: JSON values are, and bytes."""
    text = json.dumps(state, default=_write, allow_nan=False)
    found: dict[str, Any] = json.loads(text, object_hook=_read)
    assert found == state
    return found


def _write(value: object) -> object:
    assert isinstance(value, bytes), f"{value!r} is neither JSON nor bytes"
    return {"bytes": base64.b64encode(value).decode()}


def _read(values: dict[str, Any]) -> object:
    return base64.b64decode(values["bytes"]) if set(values) == {"bytes"} else values
