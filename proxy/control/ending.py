"""Whether what runs is to end with the control process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Ending:
    """It is, when the process was told to stop, and when its first start fails. When it ends in any other way, by an
    error of its own for one, workers and backends go on: the next control process takes them over.
    """

    is_orderly: bool = False
