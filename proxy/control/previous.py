"""What a rollback goes back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.settings import Version


@dataclass(frozen=True)
class Previous:
    """The generation that was active before; its recipe is kept in case the config no longer has it."""

    generation: int
    version: Version
