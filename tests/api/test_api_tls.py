"""A certificate that is renewed, and what may go wrong with that."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.api import tls
from proxy.api.tls import Certificate
from proxy.config.plain_file import opened
from proxy.errors import UsageError
from tests.config.certificates import make_certificate

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


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


def test_a_certificate_that_can_be_read_a_moment_later_is(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who renews it may put it there first, and say who may read it then. (Root may: the refusal is played.)"""

    def refuse(path: Path) -> BinaryIO:
        if not path.stat().st_mode & 0o400:
            raise PermissionError
        return opened(path)

    monkeypatch.setattr(tls, "opened", refuse)
    certificate = Certificate(*files)
    before = certificate.context
    aside = files[0].parent / "new"
    aside.mkdir()
    make_certificate(aside, "cert.pem", "key.pem")
    (aside / "key.pem").chmod(0)
    for file in files:
        (aside / file.name).replace(file)
    assert certificate.context is before
    files[1].chmod(0o400)
    assert certificate.context is not before
