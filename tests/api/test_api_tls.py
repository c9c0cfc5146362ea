"""A certificate that is renewed, and what may go wrong with that."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.api.tls import Certificate
from proxy.errors import UsageError
from tests.config.certificates import make_certificate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    make_certificate(tmp_path, "cert.pem", "key.pem")
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.mark.parametrize("index", [0, 1])
def test_a_pipe_in_place_of_a_file_does_not_stop_the_control_process(
    files: tuple[Path, Path], index: int, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(*files)
    before = certificate.context
    files[index].unlink()
    os.mkfifo(files[index])
    assert certificate.context is before
    assert "stays in force" in caplog.text
    with pytest.raises(UsageError, match="not a file"):
        Certificate(*files)
