from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from proxy.kernel import fallocate

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_reserved_does_not_show(tmp_path: Path) -> None:
    with (tmp_path / "file").open("ab") as file:
        file.write(b"x")
        file.flush()
        fallocate.reserve(file.fileno(), 4096)
        assert os.fstat(file.fileno()).st_size == 1
        file.write(b"y")
    assert (tmp_path / "file").read_bytes() == b"xy"


def test_more_than_there_is_room_for_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("ab") as file, pytest.raises(OSError, match=r"space|large") as caught:
        fallocate.reserve(file.fileno(), 1 << 60)
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}


def test_where_nothing_can_be_reserved_nothing_happens() -> None:
    reading, writing = os.pipe()
    fallocate.reserve(writing, 4096)
    os.close(reading)
    os.close(writing)
