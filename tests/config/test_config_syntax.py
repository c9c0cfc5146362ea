"""The parser stops at the first error of syntax, so that one has to be understood at once."""

import pytest

from proxy.config.source import Source
from proxy.errors import ConfigError, Problem


def problem_of(text: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        Source.parse(text, "proxy.toml")
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a = web", "this is not a value", 'strings need quotes: a = "web"'),
        ("a = 5s  # five", "expected the end of the line here", 'strings need quotes: a = "5s"'),
        ("a = 0.0.0.0:80", "expected the end of the line here", 'strings need quotes: a = "0.0.0.0:80"'),
        ("a =", "this is not a value", 'a value is missing: a = "…"'),
        ("a = True", "this is not a value", "write a = true"),
        ("a: 5", 'expected "=" after the key', "TOML writes key = value"),
        ("[a\nb = 1", 'expected "]" to end the [table] line', ""),
        ('a = "x', "this string does not end", "the closing quotes are missing"),
        ('a = "x\nb = 1', "this string does not end on its line", 'the closing " is missing'),
        ("a = 'it's'", "expected the end of the line here", ""),
        ('a = ["x" "y"]', 'expected "," or "]" in the list', ""),
        ('a = "C:\\dir"', "a backslash begins an escape here", "write \\\\, or put the string in single quotes"),
        ("a = 1\na = 2", "this has a value already, further up", "remove one of the two"),
        ("[a.b]\n[a.b]", "the table [a.b] is there already, further up", ""),
        ("<<<<<<< HEAD", "this is not TOML", "this is the mark of a merge conflict"),
        ('{"a": 1}', "this is not TOML", "this looks like JSON"),
        ("---\na: 1", 'expected "=" after the key', "this looks like YAML"),
        ("- a", 'expected "=" after the key', "this looks like YAML"),
        ("a = 1 // one", "expected the end of the line here", "a comment begins with #"),
        ("a = \u201cx\u201d", "this is not a value", "typographic quotes"),
    ],
)
def test_common_mistakes_are_named_with_the_remedy(text: str, message: str, hint: str) -> None:
    problem = problem_of(text)

    assert message in problem.message
    assert hint in problem.hint
    assert bool(hint) == bool(problem.hint)


def test_the_place_is_the_parsers() -> None:
    problem = problem_of("a = 1\r\n\r\nb = web\r\n")

    assert (problem.file, problem.line, problem.column, problem.key) == ("proxy.toml", 3, 5, "")


@pytest.mark.parametrize("text", ["a = [", "a = {b = 1\n", 'a = """x\n\n'])
def test_an_error_at_the_end_of_the_file_has_a_place_too(text: str) -> None:
    assert problem_of(text).line == text.count("\n") + 1
