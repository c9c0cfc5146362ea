"""The files that [admin] names are looked at before anything is started with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.config import Admin, admin_files, examine, load, tokens
from proxy.config.plain_file import opened
from proxy.errors import ConfigError
from tests.config.certificates import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SERVICE = '[services.web]\nlisten = "127.0.0.1:8080"\nactive = "v1"\n[services.web.versions.v1]\ncommand = "sh"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With tokens, and a certificate with its key, as they should be."""
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("a" * 32 + "\n" + "r" * 32 + "\n")
    make_certificate(tmp_path, "cert.pem", "key.pem")
    return tmp_path


def config(folder: Path, *keys: str) -> Path:
    path = folder / "proxy.toml"
    path.write_text("[admin]\n" + "".join(f"{key}\n" for key in keys) + SERVICE)
    return path


PUBLIC = 'listen = "0.0.0.0:9900"'
TOKENS = 'token_file = "tokens"'
TLS = ('tls_cert = "cert.pem"', 'tls_key = "key.pem"')


def test_with_tokens_and_tls_anybody_may_knock(folder: Path) -> None:
    examined = examine(config(folder, PUBLIC, TOKENS, *TLS))
    assert examined.warnings == []
    assert examined.settings.admin.token_file == folder / "tokens"


def test_without_tls_it_is_a_warning_that_says_what_can_happen(folder: Path) -> None:
    (warning,) = examine(config(folder, PUBLIC, TOKENS)).warnings
    assert (warning.line, warning.key) == (2, "admin.listen")
    assert "without TLS" in warning.message
    assert "tls_cert" in warning.hint
    assert examine(config(folder, 'listen = "127.0.0.1:9900"', TOKENS)).warnings == []


def test_a_token_that_can_be_guessed_is_a_warning(folder: Path) -> None:
    (folder / "tokens").write_text("secret\n")
    (warning,) = examine(config(folder, PUBLIC, TOKENS, *TLS)).warnings
    assert "can be guessed" in warning.message
    assert '"secret"' not in warning.message


def test_keys_that_have_no_effect_are_pointed_out(folder: Path) -> None:
    warnings = examine(config(folder, TOKENS, *TLS, "allow_commands = true", 'metrics = "token"')).warnings
    assert {each.key for each in warnings} == {
        "admin.token_file",
        "admin.tls_cert",
        "admin.metrics",
        "admin.allow_commands",
    }
    assert all("without admin.listen" in each.message for each in warnings)


def test_a_token_file_that_others_may_read_is_an_error_with_the_command_that_mends_it(folder: Path) -> None:
    (folder / "tokens").chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load(config(folder, PUBLIC, TOKENS, *TLS))
    (problem,) = caught.value.problems
    assert "others may read it (mode 0644)" in problem.message
    assert problem.hint == f"chmod 600 {folder / 'tokens'}"


def test_a_token_file_of_the_user_that_runs_the_proxy_is_not_said_to_be_made_anew(folder: Path) -> None:
    os.chown(folder / "tokens", 12345, -1)
    with pytest.raises(ConfigError) as caught:
        load(config(folder, PUBLIC, TOKENS, *TLS))
    (problem,) = caught.value.problems
    assert "belongs to user 12345" in problem.message
    assert "check as that user" in problem.hint
    assert "umask" not in problem.hint


def test_a_key_that_everybody_may_read_is_a_warning(folder: Path) -> None:
    (folder / "key.pem").chmod(0o644)
    (warning,) = examine(config(folder, PUBLIC, TOKENS, *TLS)).warnings
    assert warning.key == "admin.tls_key"
    assert warning.hint == f"chmod 600 {folder / 'key.pem'}"


def test_a_key_that_is_another_certificates_is_an_error(folder: Path) -> None:
    make_certificate(folder, "other.pem", "key.pem")
    with pytest.raises(ConfigError, match="do not go together: key values mismatch"):
        load(config(folder, PUBLIC, TOKENS, *TLS))


def test_a_key_with_a_password_is_an_error_and_no_question(folder: Path) -> None:
    make_certificate(folder, "cert.pem", "key.pem", "-passout", "pass:secret")
    with pytest.raises(ConfigError, match=r"do not go together: .*password"):
        load(config(folder, PUBLIC, TOKENS, *TLS))


@pytest.mark.parametrize("name", ["tokens", "cert.pem", "key.pem"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_would_keep_a_check_waiting_is_an_error(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(ConfigError, match=f"{name} cannot be read: (it is not a file|is a directory)"):
        load(config(folder, PUBLIC, TOKENS, *TLS))


@pytest.mark.parametrize("name", ["tokens", "cert.pem", "key.pem"])
def test_who_may_not_read_them_can_still_check_the_rest(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so that the refusal is played."""

    def refuse(path: Path) -> object:
        if path.name == name:
            raise PermissionError
        return opened(path)

    for module in (tokens, admin_files):
        monkeypatch.setattr(module, "opened", refuse)
    admin = Admin(
        socket=folder / "control.sock",
        listen="0.0.0.0:9900",
        token_file=folder / "tokens",
        tls_cert=folder / "cert.pem",
        tls_key=folder / "key.pem",
    )
    assert list(admin_files.check(admin)) == []
