from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from proxy.control.mark import EarlierRun, Mark, supervisor

STATE = Path("/var/lib/proxyctl")


def test_a_backend_is_known_by_all_of_its_mark_and_by_nothing_less() -> None:
    mark = Mark("boot:1:2:/state", "web", 3, 0)
    environment = {"PATH": "/bin", **mark.environment()}
    assert mark.is_marked(environment)
    for name in mark.environment():
        assert not mark.is_marked({**environment, name: "other"})
        assert not mark.is_marked({key: value for key, value in environment.items() if key != name})


def test_the_name_of_a_supervisor_is_its_own_for_ever() -> None:
    program = f"from pathlib import Path; from proxy.control.mark import supervisor; print(supervisor(Path('{STATE}')))"
    other = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert other != supervisor(STATE) == supervisor(STATE)
    assert f":{os.getpid()}:" in supervisor(STATE)


def test_only_earlier_runs_with_the_same_state_folder_are_ours_to_clean_up() -> None:
    earlier = EarlierRun(STATE)
    assert earlier.is_marked({"PROXY_SUPERVISOR": f"boot:1:2:{STATE}"})
    assert not earlier.is_marked({"PROXY_SUPERVISOR": supervisor(STATE)})
    assert not earlier.is_marked({"PROXY_SUPERVISOR": f"boot:1:2:/other{STATE}"})
    assert not earlier.is_marked({"PROXY_SUPERVISOR": f"boot:1:2:{STATE}2"})
    assert not earlier.is_marked({})
