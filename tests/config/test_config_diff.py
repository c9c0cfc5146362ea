"""A reload does what the diff says, and tells the user so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import Settings, load
from proxy.config.diff import Change, Diff, ServiceDiff, diff
from proxy.config.keys import keys_of
from proxy.config.settings import Service
from proxy.core.address import Address

OLD = """
state_dir = "state"
admin.socket = "control.sock"
[services.web]
listen = ["127.0.0.1:80", "127.0.0.1:81"]
active = "v1"
[services.web.versions.v1]
command = "./app"
env = { PASSWORD = "secret", MODE = "x" }
[services.web.versions.v2]
command = "./app2"
"""


@pytest.fixture
def compare(tmp_path: Path) -> Callable[[str], Diff]:
    """The diff from OLD to another text."""

    def settings(text: str) -> Settings:
        path = tmp_path / "proxy.toml"
        path.write_text(text)
        return load(path)

    return lambda text: diff(settings(OLD), settings(text))


def test_the_same_config_is_no_change_however_it_is_written(compare: Callable[[str], Diff]) -> None:
    same = compare(
        OLD.replace('"./app"', '["./app"]').replace('"127.0.0.1:80", "127.0.0.1:81"', '"127.0.0.1:81", "localhost:80"')
    )

    assert not same
    assert same == Diff()
    assert same.sentences == same.warnings == ()


def test_services_that_come_and_go_are_named(compare: Callable[[str], Diff]) -> None:
    changed = compare(OLD.replace("web", "api"))

    assert (changed.added, changed.removed, changed.changed) == (("api",), ("web",), ())
    assert changed.sentences == ("api: service added", "web: service removed")


def test_listeners_are_opened_and_closed_one_by_one(compare: Callable[[str], Diff]) -> None:
    (web,) = compare(OLD.replace('"127.0.0.1:81"', '"unix:/run/web"')).changed

    assert web == ServiceDiff(
        "web", listen_added=(Address(path="/run/web"),), listen_removed=(Address("127.0.0.1", 81),)
    )
    assert list(web.sentences()) == ["web: listens on unix:/run/web too", "web: no longer listens on 127.0.0.1:81"]


def test_versions_are_added_removed_and_changed(compare: Callable[[str], Diff]) -> None:
    text = OLD.replace('"./app"', '"./app --new"').replace("versions.v2", "versions.v3")
    (web,) = compare(text).changed

    assert (web.versions_added, web.versions_removed, web.versions_changed) == (("v3",), ("v2",), ("v1",))
    assert web.recipes == (Change("versions.v1.command", "[./app]", "[./app, --new]"),)
    assert "web: versions.v1.command: [./app] → [./app, --new] (from its next start)" in web.sentences()


def test_an_edited_active_is_a_decision_of_its_own(compare: Callable[[str], Diff]) -> None:
    (web,) = compare(OLD.replace('active = "v1"', 'active = "v2"')).changed

    assert web.active == Change("active", "v1", "v2")
    assert list(web.sentences()) == ["web: active: v1 → v2"]


def test_settings_are_shown_as_they_are_written(compare: Callable[[str], Diff]) -> None:
    health = '[services.web.health]\ntype = "http"\nstatus = "200"\n'
    drain = '[services.web.drain]\nstop_signal = "SIGINT"\nbake = 90\n'
    changed = compare(f'lame_duck = "5s"\n{OLD}{health}{drain}')

    assert changed.settings == (Change("lame_duck", "0", "5s"),)
    assert changed.sentences == (
        "web: health.type: tcp → http",
        "web: health.status: 200-399 → 200",
        "web: drain.stop_signal: SIGTERM → SIGINT",
        "web: drain.bake: 0 → 1m30s",
        "lame_duck: 0 → 5s",
    )


def test_how_requests_are_treated_can_be_changed_while_the_proxy_runs(compare: Callable[[str], Diff]) -> None:
    http = '[services.web.http]\nforwarded = "replace"\nrequest_id = true\nheader_timeout = 5\n'
    text = OLD.replace('active = "v1"', 'active = "v1"\nprotocol = "http"')

    assert compare(f"{text}{http}").sentences == (
        "web: protocol: tcp → http",
        "web: http.forwarded: append → replace",
        "web: http.request_id: false → true",
        "web: http.header_timeout: 30s → 5s",
    )


def test_a_changed_secret_is_reported_and_not_shown(compare: Callable[[str], Diff]) -> None:
    changed = compare(OLD.replace("secret", "hidden").replace('MODE = "x"', 'NEW = "y"'))

    assert changed.sentences == (
        "web: versions.v1.env.PASSWORD: set → set to something else (from its next start)",
        "web: versions.v1.env.MODE: set → not set (from its next start)",
        "web: versions.v1.env.NEW: not set → set (from its next start)",
    )
    assert "secret" not in repr(changed)
    assert "hidden" not in repr(changed)


def test_what_needs_a_restart_is_a_warning_and_no_change(compare: Callable[[str], Diff]) -> None:
    changed = compare('workers = 2\nadmin.listen = "127.0.0.1:9900"\n' + OLD.replace("control.sock", "other.sock"))

    assert changed.sentences == ()
    assert [change.key for change in changed.needs_restart] == ["workers", "admin.socket", "admin.listen"]
    assert changed.warnings[0] == "workers: 0 → 2 takes effect when the proxy is started again"
    assert changed.warnings[2].startswith("admin.listen: none → 127.0.0.1:9900")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("relay", "steer", "web: datapath: relay → steer (for new connections)"),
        ("steer", "relay", "web: datapath: steer → relay (for new connections)"),
        ("relay", "inherit", "web: datapath: relay → inherit (from the next swap or restart)"),
        ("inherit", "steer", "web: datapath: inherit → steer (from the next swap or restart)"),
    ],
)
def test_a_data_path_is_said_to_begin_when_it_does(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    def settings(datapath: str) -> Settings:
        path = tmp_path / "proxy.toml"
        path.write_text(OLD.replace('active = "v1"', f'active = "v1"\ndatapath = "{datapath}"'))
        return load(path)

    assert diff(settings(old), settings(new)).sentences == (sentence,)


def test_marks_that_connections_carry_are_not_changed_under_them(compare: Callable[[str], Diff]) -> None:
    changed = compare('steering.marks = "256-511"\n' + OLD)

    assert changed.sentences == ()
    assert changed.warnings == (
        "steering.marks: 0x5a000000-0x5a0000ff → 0x100-0x1ff takes effect when the proxy is started again",
    )


def test_no_setting_of_a_service_is_forgotten(compare: Callable[[str], Diff]) -> None:
    edits = {
        "protocol": '"http"',
        "datapath": '"steer"',
        "balance": '"round_robin"',
        "connect_timeout": "9",
        "idle_timeout": "9",
        "max_connections": "9",
    }
    apart = {"listen", "active", "versions", "http", "health", "drain"}
    assert edits.keys() == {*keys_of(Service)} - apart, "a new key needs its place here"

    lines = "\n".join(f"{key} = {value}" for key, value in edits.items())
    (web,) = compare(OLD.replace('active = "v1"', f'active = "v1"\n{lines}')).changed
    assert [change.key for change in web.settings] == list(edits)
