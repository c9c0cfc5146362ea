"""New code that looks before it is let near anything."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy import wire
from proxy.config import load
from proxy.control.rehearsal import rehearse
from proxy.control.state import FORMAT, ServiceRecord, State, dump
from proxy.errors import UpgradeError

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "proxy.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n[admin]\nsocket = "{tmp_path}/control.sock"\n'
        '[services.web]\nlisten = "127.0.0.1:0"\nactive = "v1"\nversions.v1.command = "unused"\n'
    )
    settings = load(path)
    settings.state_dir.mkdir(mode=0o700)
    state = settings.state_dir / "state.json"
    state.write_bytes(dump(State(services={"web": ServiceRecord(active="v1")})))
    state.chmod(0o600)
    return settings


def handed_over(settings: Settings, **changed: Any) -> str:
    return json.dumps({"state": FORMAT, "wire": wire.VERSION, "state_dir": str(settings.state_dir), **changed})


def files(settings: Settings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in settings.state_dir.iterdir()}


def test_code_that_can_go_on_from_here_says_nothing(settings: Settings) -> None:
    before = files(settings)
    rehearse(settings, handed_over(settings))
    assert files(settings) == before


def test_a_state_folder_without_a_state_is_fine(settings: Settings) -> None:
    (settings.state_dir / "state.json").unlink()
    rehearse(settings, handed_over(settings))
    assert files(settings) == {}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"state": FORMAT + 1}, rf"^version {FORMAT + 1} of the state is not known .* reads 1\b.*\b{FORMAT}$"),
        ({"wire": wire.VERSION + 1}, rf"^version {wire.VERSION + 1} of the messages between control and workers "),
    ],
)
def test_what_it_would_not_understand_is_named_before_anything_is_changed(
    settings: Settings, changed: dict[str, int], why: str
) -> None:
    before = files(settings)
    with pytest.raises(UpgradeError, match=why) as caught:
        rehearse(settings, handed_over(settings, **changed))
    assert "smaller steps" in caught.value.hint
    assert files(settings) == before


def test_a_state_folder_that_was_moved_in_the_config_is_refused(settings: Settings) -> None:
    """The new code would look for what runs in the wrong place, find nothing, and begin anew beside it."""
    with pytest.raises(UpgradeError, match="state_dir was edited"):
        rehearse(settings, handed_over(settings, state_dir="/elsewhere"))


def test_a_state_that_it_cannot_read_is_named_and_left_where_it_is(settings: Settings) -> None:
    state = settings.state_dir / "state.json"
    state.write_bytes(b'{"format": 99}')
    before = files(settings)
    with pytest.raises(UpgradeError, match=r"state\.json cannot be read: format 99, this release reads"):
        rehearse(settings, handed_over(settings))
    assert files(settings) == before


@pytest.mark.parametrize(("changed", "code"), [({}, 0), ({"state": 99}, 1)])
def test_a_process_of_its_own_says_by_its_exit_status_whether_it_can_go_on(
    settings: Settings, changed: dict[str, int], code: int
) -> None:
    """As the control process runs it; the last line is what the user of `upgrade` is shown."""
    before = files(settings)
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "proxy.main", "--config", str(settings.path),
            "--rehearse", handed_over(settings, **changed),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode == 0) == (code == 0), done.stderr
    if code:
        assert "version 99 of the state is not known" in (done.stdout + done.stderr)
    assert files(settings) == before
