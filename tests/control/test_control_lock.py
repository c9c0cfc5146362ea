import os

import pytest

from proxy.control import lock
from proxy.errors import AddressInUseError


def test_a_second_proxy_on_the_same_state_is_told_who_holds_it(tmp_path):
    with lock.hold(tmp_path / "state"):
        with pytest.raises(AddressInUseError) as caught, lock.hold(tmp_path / "state"):
            pass
        assert f"pid {os.getpid()} (" in caught.value.message
    with lock.hold(tmp_path / "state"):
        pass


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(lock.StateFolderError, match="cannot be used") as caught, lock.hold(tmp_path / "file" / "state"):
        pass
    assert "state_dir" in caught.value.hint


def test_nobody_else_may_look_into_the_state(tmp_path):
    with lock.hold(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
