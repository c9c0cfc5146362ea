"""A single value that is taken for something it is not starts the wrong thing, or nothing."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from signal import Signals

import pytest
from pydantic import ValidationError

from proxy.config import Version, values
from proxy.config.values import BadValueError
from proxy.core.address import Address


def refusal(function: Callable[[object], object], value: object) -> BadValueError:
    with pytest.raises(BadValueError) as caught:
        function(value)
    return caught.value


def test_a_command_is_split_as_a_shell_would() -> None:
    assert values.command("./app --name 'a b' \"c\"") == ("./app", "--name", "a b", "c")
    assert values.command(["./app", "a b", ""]) == ("./app", "a b", "")
    assert values.command([]) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("./app 'x", "the quotes do not match"),
        ([""], "the program, and it is empty"),
        ("PORT=1 ./app", "no shell reads the command"),
        (["./app", 5], "every item of a command is a string"),
        (["./app", ["x"]], "expected a string"),
        (5, "expected a list of strings"),
        ({"a": 1}, "expected a list of strings"),
        ("./app \0", "NUL"),
        ("./app {soket}", "unknown placeholder {soket}"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused(value: object, message: str) -> None:
    assert message in str(refusal(values.command, value))


def test_the_hint_for_a_bare_value_shows_it_in_quotes() -> None:
    assert refusal(values.command, ["./app", True]).hint == 'put it in quotes: "true"'
    assert refusal(values.variable_value, 5).hint == 'put it in quotes: "5"'
    assert refusal(values.text, 1.5).hint == 'put it in quotes: "1.5"'


@pytest.mark.parametrize("name", ["v1", "2026-11-21", "1.0+build_5", "a" * 64])
def test_names_may_be_dates_hashes_and_versions(name: str) -> None:
    assert values.name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-v", "a/b", "a b", "é", "a" * 65, "a\n"])
def test_names_that_are_no_safe_file_names_are_refused(name: str) -> None:
    assert "letters, digits and ._+-" in str(refusal(values.name, name))


def test_a_refused_name_comes_with_one_like_it_that_works() -> None:
    assert refusal(values.name, "-my app/").hint == 'for example "my-app"'


def test_an_admin_address_is_a_port_beside_the_socket_that_is_always_there() -> None:
    assert "admin.socket" in refusal(values.admin_address, "unix:/run/x.sock").hint
    assert values.admin_address("0.0.0.0:9900") == Address(host="0.0.0.0", port=9900)
    assert values.admin_address("[::1]:9900") == Address(host="::1", port=9900)
    assert values.admin_address("") is None


def test_a_backend_may_be_a_name_and_needs_a_port() -> None:
    assert values.backend_address("db.internal:5432") == Address(host="db.internal", port=5432)
    assert "needs its port" in str(refusal(values.backend_address, "10.0.0.5:0"))


@pytest.mark.parametrize(
    ("value", "meant"), [("TERM", "SIGTERM"), ("sigint", "SIGINT"), ("SIGTREM", "SIGTERM"), ("quit", "SIGQUIT")]
)
def test_a_misspelt_signal_leads_to_the_right_one(value: str, meant: str) -> None:
    assert refusal(values.stop_signal, value).hint == f'did you mean "{meant}"?'


def test_signals_that_end_no_process_are_refused() -> None:
    assert "does not end a process" in str(refusal(values.stop_signal, "SIGCONT"))
    assert values.stop_signal("SIGWINCH") is Signals.SIGWINCH  # how Apache httpd is asked


def test_an_empty_signal_at_leaves_it_to_the_data_path() -> None:
    assert values.signal_at("") is values.signal_at(None) is None
    assert values.signal_at("start") == "start"
    assert refusal(values.signal_at, "sart").hint == 'did you mean "start"?'


@pytest.mark.parametrize(("value", "hint"), [("True", "write true without quotes"), ("yes", ""), (1, ""), (None, "")])
def test_a_switch_is_on_or_off_and_nothing_is_guessed(value: object, hint: str) -> None:
    assert refusal(values.boolean, value).hint == hint
    assert values.boolean(True) is True


@pytest.mark.parametrize("path", ["/a b", "/a#b", "/é", "/a\r\nHost: x", "healthz", ""])
def test_a_request_path_cannot_smuggle_anything_into_the_request(path: str) -> None:
    refusal(values.request_path, path)


def test_a_user_has_to_exist_and_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody, root = pwd.getpwnam("nobody"), pwd.getpwuid(0)

    assert "has no user" in str(refusal(values.user, "no-such-user"))
    assert "has no user" in str(refusal(values.user, "9" * 30))
    assert refusal(values.user, "nobdy").hint == 'did you mean "nobody"?'
    assert values.user("") == ""

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert values.user("nobody") == "nobody"
    assert values.user(str(nobody.pw_uid)) == str(nobody.pw_uid)

    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    assert values.user("nobody") == "nobody"
    assert "only root" in str(refusal(values.user, root.pw_name))


@pytest.mark.parametrize("cwd", ["x" * 300, "/dev/null/x", "no/such/folder", "~", "~nobody/x"])
def test_a_folder_that_cannot_be_entered_is_a_mistake_and_not_a_crash(cwd: str) -> None:
    with pytest.raises(ValidationError):
        Version(name="v1", command=("./app",), cwd=Path(cwd))


def test_a_variable_needs_a_name_that_programs_can_read() -> None:
    assert values.variable("_A1") == "_A1"
    for name in ("", "1A", "A-B", "A=B", "A B"):
        refusal(values.variable, name)


def test_whole_numbers_are_neither_quoted_nor_booleans() -> None:
    assert values.whole(3) == 3
    assert refusal(values.whole, "3").hint == "write 3 without quotes"
    for value in (True, 1.0, None, "x"):
        refusal(values.whole, value)


def test_one_status_code_may_be_a_number() -> None:
    assert 204 in values.statuses(204)
    refusal(values.statuses, True)
