"""uvicorn, with a protocol that serves who has connected: its own drops those that have not asked yet at SIGTERM.

patient_uvicorn.py APP --fd N
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 1.0  # seconds


class Patient(H11Protocol):
    def shutdown(self) -> None:
        """A client that has just been accepted has its request on the way."""
        if self.cycle is None and not self.transport.is_closing():
            asyncio.get_running_loop().call_later(PATIENCE, super().shutdown)
        else:
            super().shutdown()


if __name__ == "__main__":
    _, app, option, number = sys.argv
    assert option == "--fd"
    uvicorn.run(app, fd=int(number), http=Patient, log_level="warning")
