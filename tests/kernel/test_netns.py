from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from proxy.kernel import netns
from tests.isolation import network_namespace

GONE = 2**22 + 1  # above the highest pid there can be (proc(5), pid_max)


def test_processes_of_one_namespace_are_seen_to_be_in_the_same() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert netns.of(child.pid) == netns.of() == netns.of(os.getpid()) is not None
        finally:
            child.kill()


def test_a_backend_in_another_namespace_is_told_apart() -> None:
    ours = netns.of()
    with network_namespace(), subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert netns.of(child.pid) == netns.of() != ours
        finally:
            child.kill()
    assert netns.of() == ours


def test_it_is_this_threads_namespace_and_not_that_of_another_thread() -> None:
    outside, found = netns.of(), []

    def move() -> None:
        with network_namespace():
            found.append(netns.of())

    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert found != [outside]
    assert netns.of() == outside


def test_a_process_that_is_gone_has_none() -> None:
    assert netns.of(GONE) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
def test_a_process_that_may_not_be_looked_into_has_none_that_is_known() -> None:
    code = f"import os; from proxy.kernel import netns; os.setuid(65534); print(netns.of({os.getpid()}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "None"
