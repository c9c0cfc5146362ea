"""tomli's errors in a user's terms, with a hint for the mistakes that are made most."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from proxy.config.findings import dotted
from proxy.errors import Problem

if TYPE_CHECKING:
    import tomli

_SENTENCES = {
    "Expected newline or end of document after a statement": "expected the end of the line here",
    "Expected '=' after a key in a key/value pair": 'expected "=" after the key',
    "Expected ']' at the end of a table declaration": 'expected "]" to end the [table] line',
    "Expected ']]' at the end of an array declaration": 'expected "]]" to end the [[table]] line',
    'Expected "\'"': "this string does not end",
    "Illegal character '\\n'": "this string does not end on its line",
    "Unterminated string": "this string does not end",
    "Unclosed array": 'expected "," or "]" in the list',
    "Unclosed inline table": 'expected "," or "}" in the table',
    "Unescaped '\\' in a string": "a backslash begins an escape here, and not one that TOML has",
    "Cannot overwrite a value": "this has a value already, further up",
    "Invalid value": "this is not a value",
    "Invalid statement": "this is not TOML",
}

_HINTS = {
    "Unescaped '\\' in a string": "write \\\\, or put the string in single quotes",
    "Cannot overwrite a value": "remove one of the two",
    "Expected '=' after a key in a key/value pair": "TOML writes key = value",
    "Unterminated string": "the closing quotes are missing",
    "Illegal character '\\n'": 'the closing " is missing',
    'Expected "\'"': "the closing ' is missing; a string that has a ' in it goes in \"double quotes\"",
}

_PAIR = re.compile(r"""\s*(?P<key>[\w."'-]+)\s*=\s*(?P<value>[^"'\[{#\s][^#"=]*?)?\s*(?:\#.*)?""")


def syntax_problem(error: tomli.TOMLDecodeError, text: str, file: str) -> Problem:
    """The one error that tomli stops at."""
    line = text.splitlines()[error.lineno - 1] if error.lineno <= len(text.splitlines()) else ""
    hint = _looks_like(line) or _HINTS.get(error.msg, "") or _unquoted(line)
    return Problem(file, error.lineno, error.colno, "", _sentence(error.msg), hint)


def _sentence(message: str) -> str:
    if twice := re.fullmatch(r"Cannot declare (\(.*\)) twice", message):
        return f"the table [{dotted(ast.literal_eval(twice[1]))}] is there already, further up"
    return _SENTENCES.get(message, message[:1].lower() + message[1:])


def _looks_like(line: str) -> str:
    """What the line is, if it is something that is no TOML at all."""
    start = line.lstrip()
    if start.startswith(("<<<<<<<", "=======", ">>>>>>>")):
        return "this is the mark of a merge conflict"
    if start.startswith("{"):
        return "this looks like JSON; the config is TOML: [table] lines, and key = value"
    if start.startswith(("---", "- ")):
        return "this looks like YAML; the config is TOML: [table] lines, and key = value"
    if re.search(r"(^|\s)//", line):
        return "a comment begins with #"
    if re.search("[\u2018-\u201f]", line):
        return 'these are typographic quotes; TOML needs straight ones: "…"'
    return ""


def _unquoted(line: str) -> str:
    pair = _PAIR.fullmatch(line)
    if not pair:
        return ""
    key, value = pair["key"], pair["value"]
    if not value:
        return f'a value is missing: {key} = "…"'
    if value.lower() in {"true", "false"}:
        return f"write {key} = {value.lower()}"
    return f'strings need quotes: {key} = "{value}"'
