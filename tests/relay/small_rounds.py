"""`python -P -m tests.relay.small_rounds`: a worker that hands over four connections at a time."""

from __future__ import annotations

from proxy.relay import __main__, handover

ROUND = 4

if __name__ == "__main__":
    handover.ROUND = ROUND
    __main__.main()
