"""What is printed about a file must not be garbled by what is in the file."""

import tomli
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.findings import dotted, printable


def test_a_path_is_written_as_in_the_file() -> None:
    assert dotted(("services", "web", "listen", 1)) == "services.web.listen[1]"
    assert dotted(("services", "a b", "x.y")) == 'services."a b"."x.y"'
    assert dotted(()) == ""


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_a_path_can_be_pasted_into_the_file(path: list[str]) -> None:
    table = tomli.loads(f"{dotted(path)} = 1".replace("\x7f", "\\u007f"))

    for key in path:
        table = table[key]
    assert table == 1


@given(st.text())
def test_a_message_is_one_line_that_a_terminal_cannot_misunderstand(text: str) -> None:
    assert printable(text).isprintable()


def test_a_value_of_any_length_does_not_drown_the_message() -> None:
    assert len(printable("x" * 100_000 + " is wrong")) < 400
    assert printable("x" * 100_000 + " is wrong").endswith("is wrong")
