"""An error has to point at the line that is wrong, however the file is written."""

import itertools
import random
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.positions import Path, Place, find_places

SAMPLE = """\
workers = 2   # a comment = with [everything] {in} "it"

[services.web]
listen = ["a:1",
  # b
  "b:2", ]
health.type = 'http'
"quoted key" = 1
health.path = \"\"\"
x = 1
[no.table]\"\"\"

  [services.web.versions."v 1"]
  env = { A = "1", 'B' = [1, 2], c.d = 3 }

[[list]]
a = 1979-05-27 07:32:00
[[list]]
b = 1
[list.sub]
c = 1
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("workers",), (1, 1), (1, 11)),
        (("services",), (3, 2), (3, 2)),
        (("services", "web"), (3, 1), (3, 1)),
        (("services", "web", "listen"), (4, 1), (4, 10)),
        (("services", "web", "listen", 0), (4, 11), (4, 11)),
        (("services", "web", "listen", 1), (6, 3), (6, 3)),
        (("services", "web", "health"), (7, 1), (7, 1)),
        (("services", "web", "health", "type"), (7, 8), (7, 15)),
        (("services", "web", "quoted key"), (8, 1), (8, 16)),
        (("services", "web", "health", "path"), (9, 8), (9, 15)),
        (("services", "web", "versions", "v 1"), (13, 3), (13, 3)),
        (("services", "web", "versions", "v 1", "env"), (14, 3), (14, 9)),
        (("services", "web", "versions", "v 1", "env", "B", 1), (14, 30), (14, 30)),
        (("services", "web", "versions", "v 1", "env", "c", "d"), (14, 36), (14, 40)),
        (("list", 0, "a"), (17, 1), (17, 5)),
        (("list", 1), (18, 1), (18, 1)),
        (("list", 1, "b"), (19, 1), (19, 5)),
        (("list", 1, "sub", "c"), (21, 1), (21, 5)),
    ],
)
def test_keys_and_values_are_found_in_every_notation(path: Path, key: tuple[int, int], value: tuple[int, int]) -> None:
    places = find_places(SAMPLE)

    assert (places.of_key(path), places.of_value(path)) == (key, value)


def test_what_is_not_in_the_file_is_placed_at_the_closest_table_around_it() -> None:
    places = find_places(SAMPLE)

    assert places.of_value(("services", "web", "drain", "deadline")) == (3, 1)
    assert places.of_key(("services", "web", "listen", 7)) == (4, 1)
    assert places.of_value(("nowhere",)) == (1, 1)
    assert places.of_value(()) == (1, 1)


def test_a_table_that_is_implied_first_is_placed_at_its_own_header() -> None:
    places = find_places("[a.b]\nx = 1\n[a]\ny = 2\n")

    assert places.of_key(("a",)) == (3, 1)


def test_windows_line_ends_do_not_shift_lines() -> None:
    assert find_places("a = 1\r\n\r\nb = [\r\n  2,\r\n]\r\n").of_value(("b", 0)) == (4, 3)


def test_what_comes_before_something_unreadable_keeps_its_place() -> None:
    places = find_places("a = 1\nb ! 2\nc = 3\n")

    assert places.of_value(("a",)) == (1, 5)
    assert ("c",) not in places


def test_very_deep_nesting_loses_places_and_nothing_else() -> None:
    places = find_places("a = 1\nb = " + "[" * 5000 + "]" * 5000)

    assert places.of_value(("a",)) == (1, 5)


@given(st.text(alphabet="ab.='\"[]{},#\\ \n\r\t1é-"))
def test_no_text_makes_it_fail(text: str) -> None:
    find_places(text)


@given(st.randoms(use_true_random=False))
def test_every_value_of_any_document_is_where_its_place_says(rng: random.Random) -> None:
    document = _Document(rng)
    text = document.write()
    places = find_places(text)

    for path, value in _paths(tomli.loads(text)):
        assert path in places, text
        key, at = _offset(text, places.of_key(path)), _offset(text, places.of_value(path))
        if isinstance(value, str | int):
            assert text.startswith(document.written[value], at), (path, text)
        if isinstance(path[-1], str) and text[key] != "[":
            assert text[key:].lstrip("\"'").startswith(path[-1]), (path, text)


@given(st.randoms(use_true_random=False), st.integers(min_value=0))
def test_half_a_document_does_not_make_it_fail(rng: random.Random, cut: int) -> None:
    text = _Document(rng).write()

    find_places(text[: cut % len(text)])


def _offset(text: str, place: Place) -> int:
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: place.line - 1]) + place.column - 1


def _paths(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """Every path in a parsed document, with what is there."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    here = [(path, value)] if path else []
    return [*here, *(found for key, item in items for found in _paths(item, (*path, key)))]


class _Document:
    """A random TOML document of unique scalars and keys; `written` has the notation of each scalar."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.written: dict[str | int, str] = {}
        self._ids = itertools.count(100)

    def write(self) -> str:
        lines = [self._blank(), *(self._pair() for _ in range(self.rng.randint(0, 3)))]
        tables: list[str] = []
        for _ in range(self.rng.randint(0, 5)):
            parent = f"{self.rng.choice(tables)}." if tables and self.rng.random() < 0.6 else ""
            header = parent + self._key()
            repeat = self.rng.randint(1, 3) if self.rng.random() < 0.4 else 0
            for _ in range(repeat or 1):
                lines += [f"[[{header}]]" if repeat else f"[ {header} ]", *(self._pair() for _ in range(2))]
            tables.append(header)
        return "\n".join(lines) + "\n"

    def _pair(self) -> str:
        dots = [self._key() for _ in range(self.rng.randint(1, 2))]
        return f"{self._indent()}{' . '.join(dots)} ={self._indent()}{self._value(2)}{self._blank()}"

    def _key(self) -> str:
        name = f"k{next(self._ids)}"
        return self.rng.choice([name, f"{name}-_", f'"{name} #]= é"', f"'{name}.\"}}'"])

    def _value(self, depth: int) -> str:
        kind = self.rng.choice("ssssat") if depth else "s"
        if kind == "a":
            items = [self._gap() + self._value(depth - 1) + self._gap() for _ in range(self.rng.randint(0, 3))]
            return f"[{','.join(items)}{',' if items and self.rng.random() < 0.5 else ''}{self._gap()}]"
        if kind == "t":
            pairs = [f" {self._key()} = {self._value(depth - 1)} " for _ in range(self.rng.randint(0, 2))]
            return f"{{{','.join(pairs)}}}"
        return self._scalar()

    def _scalar(self) -> str:
        number = next(self._ids)
        text = f"{number}{self.rng.choice(['', ' # no comment', ' [x] = {', ',', ' é'])}"
        value, written = self.rng.choice(
            [
                (number, str(number)),
                (text, f'"{text}"'),
                (text, f"'{text}'"),
                (f'{text}\\"\n', f'"{text}\\\\\\"\\n"'),
                (f'{text}\nx = 1\n""', f'"""{text}\nx = 1\n"""""'),
                (f"{text}\n[x]\n'", f"'''{text}\n[x]\n''''"),
            ]
        )
        self.written[value] = written
        return written

    def _gap(self) -> str:
        return self.rng.choice(["", " ", "\n  ", " # , ] }\n", "\t"])

    def _blank(self) -> str:
        return self.rng.choice(["", "  ", " # a = 1 ]", "\n\n", "\n# [x]"])

    def _indent(self) -> str:
        return self.rng.choice(["", " ", "\t "])
