"""`python -P -m tests.relay.impatient`: a worker that does not wait long for one that takes over from it."""

from __future__ import annotations

from proxy.relay import __main__, handover

PATIENCE = 0.5

if __name__ == "__main__":
    handover.PATIENCE = PATIENCE
    __main__.main()
