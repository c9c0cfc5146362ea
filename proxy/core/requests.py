"""What a user asks for, as the API hands it to control."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SwapRequest:
    """`version` to go to; `deadline` in seconds for the drain (None: the config's); `command` makes the version known,
    as an argument list.
    """

    version: str
    deadline: float | None = None
    command: tuple[str, ...] | None = None
