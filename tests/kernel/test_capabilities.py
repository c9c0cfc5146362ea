from __future__ import annotations

import os
import subprocess
import sys

import pytest

from proxy.kernel import capabilities
from proxy.kernel.capabilities import Capability
from tests.tools import need

ALL = (1 << 64) - 1

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have capabilities to lose")


def shown_by(code: str, *, by: tuple[str, ...] = ()) -> str:
    program = f"import ctypes, os\nfrom proxy.kernel.capabilities import *\n{code}"
    command = [*by, sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@needs_root
def test_a_capability_that_was_dropped_is_missed_and_the_others_are_not() -> None:
    drop = (need("setpriv", package="util-linux"), "--bounding-set=-net_admin")
    code = "print(missing([Capability.KILL, Capability.NET_ADMIN, Capability.SETUID]), bounding() & 1 << 12)"
    assert shown_by(code, by=drop) == f"{[Capability.NET_ADMIN]} 0"


@needs_root
def test_an_ordinary_user_has_none() -> None:
    assert shown_by("os.setuid(65534)\nprint(effective(), has(Capability.NET_ADMIN))") == "0 False"


@needs_root
def test_they_are_those_of_the_calling_thread() -> None:
    code = """
import threading
def drop():
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).syscall({"x86_64": 126}.get(os.uname().machine, 91), header, data) == 0  # capset(2)
    print(effective())
thread = threading.Thread(target=drop)
thread.start()
thread.join()
print(effective() != 0)
"""
    assert shown_by(code).split() == ["0", "True"]


@pytest.mark.parametrize("covered", [Capability.BPF, Capability.PERFMON, Capability.CHECKPOINT_RESTORE])
def test_what_sys_admin_covers_is_not_asked_for_beside_it(covered: Capability) -> None:
    assert capabilities.has(covered, 1 << Capability.SYS_ADMIN)
    assert capabilities.has(covered, 1 << covered)
    assert not capabilities.has(covered, 1 << Capability.NET_ADMIN)
    assert not capabilities.has(Capability.NET_ADMIN, 1 << Capability.SYS_ADMIN)


def test_all_of_them_are_nothing_missing_and_none_of_them_is_everything() -> None:
    assert capabilities.missing(Capability, ALL) == []
    assert capabilities.missing(Capability, 0) == list(Capability)


def test_the_names_are_those_setcap_and_systemd_take() -> None:
    assert Capability.NET_ADMIN.title == "CAP_NET_ADMIN"


def test_capabilities_in_a_user_namespace_of_ones_own_are_known_not_to_be_the_machines() -> None:
    code = """
if ctypes.CDLL(None).unshare(0x10000000) == 0:  # CLONE_NEWUSER
    print(in_first_user_namespace(), has(Capability.NET_ADMIN))
else:
    print("not allowed")
"""
    assert shown_by(code) in {"False True", "not allowed"}
