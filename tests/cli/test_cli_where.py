"""Which proxy a verb talks to: the contract's order, and an error that says where the path came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.cli import where

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Result


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXYCTL_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)


def config(text: str) -> None:
    Path("proxy.toml").write_text(text)


def test_the_order_is_option_environment_config_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert where.find(None) == (tmp_path / "runtime/proxyctl/control.sock", "the default")
    config(f'[admin]\nsocket = "{tmp_path}/of-config.sock"\n')
    assert where.find(None) == (tmp_path / "of-config.sock", "./proxy.toml")
    monkeypatch.setenv("PROXYCTL_SOCKET", "/of-environment.sock")
    assert where.find(None) == (Path("/of-environment.sock"), "$PROXYCTL_SOCKET")
    assert where.find("/of-option.sock") == (Path("/of-option.sock"), "--socket")


def test_a_config_with_an_error_is_said_to_be_why_the_proxy_is_looked_for_elsewhere(
    proxyctl: Callable[..., Result],
) -> None:
    config("[admin\nsocket =")
    assert where.find(None).source.startswith("the default, because ./proxy.toml cannot be read")
    assert "`proxyctl check` says why" in proxyctl("reload").err


@pytest.mark.parametrize(("option", "source"), [(["--socket", "/nonexistent/x.sock"], "--socket"), ([], "the default")])
def test_not_running_names_the_socket_and_the_way_out(
    option: list[str], source: str, proxyctl: Callable[..., Result]
) -> None:
    result = proxyctl("status", *option)
    assert (result.code, result.out) == (3, "")
    assert "no proxy answers on /" in result.err
    assert f"(from {source})" in result.err
    assert "`proxyctl run`" in result.err
    assert "--socket or $PROXYCTL_SOCKET" in result.err
