import errno
import os
import subprocess

import pytest

from proxy.control import lock
from proxy.errors import AddressInUseError
from tests.tools import need


def test_a_second_proxy_on_the_same_state_is_told_who_holds_it(tmp_path):
    with lock.hold(tmp_path / "state"):
        with pytest.raises(AddressInUseError) as caught, lock.hold(tmp_path / "state"):
            pass
        assert f"pid {os.getpid()} (" in caught.value.message
    with lock.hold(tmp_path / "state"):
        pass


def test_a_lock_that_came_over_an_exec_is_taken_as_it_is(tmp_path):
    with lock.hold(tmp_path / "state") as descriptor:
        with lock.hold(tmp_path / "state", inherited=os.dup(descriptor)) as again:
            assert not os.get_inheritable(again)
        with pytest.raises(AddressInUseError), lock.hold(tmp_path / "state"):
            pass


def test_the_lock_is_kept_by_whoever_inherited_it_after_the_one_before_is_gone(tmp_path):
    with lock.hold(tmp_path / "state") as first:
        inherited = os.dup(first)
    with lock.hold(tmp_path / "state", inherited), pytest.raises(AddressInUseError), lock.hold(tmp_path / "state"):
        pass
    with lock.hold(tmp_path / "state"):
        pass


@pytest.fixture
def read_only(tmp_path):
    """Call it: what is in `state` by then can only be read from there on."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    mount, umount = need("mount", package="mount"), need("umount", package="mount")
    state = tmp_path / "state"
    state.mkdir()
    mounted = []

    def freeze():
        subprocess.run([mount, "--bind", state, state], check=True)
        mounted.append(state)
        subprocess.run([mount, "-o", "remount,bind,ro", state], check=True)
        return state

    yield freeze
    for each in mounted:
        subprocess.run([umount, "--lazy", each], check=True)


def test_on_a_disk_that_became_read_only_a_proxy_can_be_started_again_and_only_one(read_only, tmp_path):
    with lock.hold(tmp_path / "state"):
        pass
    state = read_only()
    with lock.hold(state), pytest.raises(AddressInUseError), lock.hold(state):
        pass


def test_a_folder_that_was_always_read_only_is_refused(read_only):
    state = read_only()
    with pytest.raises(lock.StateFolderError, match="Read-only file system"), lock.hold(state):
        pass


def test_a_full_disk_keeps_nobody_from_having_the_lock(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    with lock.hold(tmp_path / "state"), pytest.raises(AddressInUseError), lock.hold(tmp_path / "state"):
        pass


def test_a_lock_that_is_a_link_to_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(lock.StateFolderError), lock.hold(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_goes_wrong_while_the_lock_is_held_is_not_taken_for_another_proxy(tmp_path):
    with pytest.raises(BlockingIOError), lock.hold(tmp_path / "state"):
        raise BlockingIOError


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(lock.StateFolderError, match="cannot be used") as caught, lock.hold(tmp_path / "file" / "state"):
        pass
    assert "state_dir" in caught.value.hint


def test_nobody_else_may_look_into_the_state(tmp_path):
    with lock.hold(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
