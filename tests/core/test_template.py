from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import template
from proxy.core.template import Values

VALUES = Values(version="v2", generation=7, replica=1, port=20001, socket=None)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("--port={port}", "--port=20001"),
        ("127.0.0.1:$PORT", "127.0.0.1:20001"),
        ("${PORT}0", "200010"),
        ("{version}-{generation}-{replica}", "v2-7-1"),
        ("$PROXY_VERSION/$PROXY_GENERATION/${PROXY_REPLICA}", "v2/7/1"),
    ],
)
def test_the_backend_learns_its_port_and_names(text: str, filled: str) -> None:
    assert VALUES.fill(text) == filled


@pytest.mark.parametrize(
    "text",
    ["$PORTAL", "$PORT_HTTP", "${PORT:-80}", "{ports}", "{}", "{Port}", "{port", "$HOME", "{socket}", "%{http_code}"],
)
def test_what_only_looks_like_a_placeholder_reaches_the_backend_as_it_is(text: str) -> None:
    assert VALUES.fill(text) == text


def test_the_lower_case_variable_of_a_shell_script_is_the_scripts_own() -> None:
    script = "for port in 1 2; do echo ${port}; done"
    assert VALUES.fill(script) == script


@given(st.text(alphabet="abPORT {$_}0"))
def test_text_without_placeholders_is_never_changed(text: str) -> None:
    if not template.names([text]):
        assert VALUES.fill(text) == text


def test_which_placeholders_occur_decides_what_is_allocated() -> None:
    assert template.names(["a", "$PORT", "{socket}x{unknown}"]) == {"port", "socket"}
