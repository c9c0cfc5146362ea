"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Backoff:
    """Doubles from `first` to `limit` seconds; what then lasts `stable` seconds is forgiven."""

    first: float = 0.1
    limit: float = 30.0
    factor: float = 2.0
    stable: float = 10.0
    failures: int = 0

    def next_delay(self, lasted: float = 0.0) -> float:
        """Seconds to wait after one more failure, of something that had worked for `lasted` seconds."""
        if lasted >= self.stable:
            self.failures = 0
        # The exponent is bounded: a float overflows after a thousand doublings.
        delay = min(self.limit, self.first * self.factor ** min(self.failures, 64))
        self.failures += 1
        return delay

    def reset(self) -> None:
        self.failures = 0
