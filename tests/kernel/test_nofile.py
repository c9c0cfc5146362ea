from __future__ import annotations

import subprocess
import sys

from proxy.kernel import nofile

# Limits of the test run itself are left alone: everything happens in a process of its own.
PROGRAM = """
import resource, subprocess
from proxy.kernel import nofile
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
print(nofile.raise_to_hard(), nofile.raise_to_hard() == nofile.limit())
with subprocess.Popen(["sh", "-c", "read x; ulimit -Sn; ulimit -Hn"], stdin=subprocess.PIPE) as child:
    nofile.restore_for(child.pid)
    child.communicate(b"go\\n")
"""


def test_the_proxy_may_open_all_that_is_allowed_and_backends_start_with_the_usual_limit() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert "Limit(soft=256, hard=256) True" in lines
    assert lines[-2:] == ["64", "256"]


def test_reading_the_limit_changes_nothing() -> None:
    assert nofile.limit() == nofile.limit()
