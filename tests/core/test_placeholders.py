"""A placeholder that is left in, or braces of the program's own that are taken for one, start the wrong command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.placeholders import KNOWN, expand, used


def test_placeholders_are_found_and_replaced_wherever_they_stand() -> None:
    text = "--bind=127.0.0.1:{port} {version}-{version}"

    assert used([text, "{replica}"]) == {"port", "version", "replica"}
    assert expand(text, {"port": "80", "version": "v1"}) == "--bind=127.0.0.1:80 v1-v1"


@pytest.mark.parametrize(
    "text", ["${port}", "%{http_code}", "{{port}}", "{}", "{Port}", "{ port }", '{"port": 1}', "{a,b}"]
)
def test_braces_of_other_languages_are_left_alone(text: str) -> None:
    assert used([text]) == set()
    assert expand(text, dict.fromkeys(KNOWN, "x")) == text


def test_a_word_without_a_value_stays_as_it_is_written() -> None:
    assert expand("{port} {prot}", {"port": "80"}) == "80 {prot}"


@given(st.text(), st.text())
def test_a_value_is_not_expanded_again(text: str, value: str) -> None:
    assert expand("{version}", {"version": "{port}" + value, "port": text}) == "{port}" + value
