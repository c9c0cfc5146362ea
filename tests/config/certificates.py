"""A certificate for tests, made by openssl."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path


def make_certificate(folder: Path, cert: str, key: str, *more: str) -> None:
    """For localhost, signed by itself, for two days; `more` instead of a key without a password."""
    command = [
        need("openssl", package="openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", key, "-out", cert, *(more or ("-nodes",))]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
