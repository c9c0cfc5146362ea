"""A config file, read and parsed, with the places of its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli

from proxy.config.findings import dotted, printable
from proxy.config.paths import HOW_TO_BEGIN
from proxy.config.positions import Places, find_places
from proxy.config.syntax import syntax_problem
from proxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from proxy.config.findings import Finding

LARGEST = 1024 * 1024  # bytes; a config has some kilobytes


@dataclass(frozen=True)
class Source:
    """What a file says: `table` as tomli parsed its `text`, `places` of what is in it."""

    file: str
    text: str
    table: dict[str, Any]
    places: Places

    @classmethod
    def read(cls, path: Path) -> Source:
        """Raises ConfigError if the file cannot be read, is not UTF-8 or not TOML."""
        return cls.parse(_decode(_read(path), str(path)), str(path))

    @classmethod
    def parse(cls, text: str, file: str) -> Source:
        """Raises ConfigError if the text is not TOML."""
        try:
            table = tomli.loads(text)
        except tomli.TOMLDecodeError as error:
            raise ConfigError([syntax_problem(error, text, file)]) from error
        except RecursionError as error:
            raise _unreadable(file, "lists or tables are nested too deeply") from error
        return cls(file, text, table, find_places(text))

    def problems(self, findings: Iterable[Finding]) -> list[Problem]:
        """The findings with their places, in the order of the file."""
        problems = {self._problem(finding) for finding in findings}
        return sorted(problems, key=lambda problem: (problem.line, problem.column, problem.message))

    def _problem(self, finding: Finding) -> Problem:
        path = finding.path
        while len(path) > 1 and isinstance(path[-1], int) and path not in self.places:
            path = path[:-1]  # a string that stands for a list of one
        line, column = self.places.of_key(path) if finding.at_key else self.places.of_value(path)
        key, message, hint = printable(dotted(path)), printable(finding.message), printable(finding.hint)
        return Problem(self.file, line, column, key, message, hint)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise _unreadable(str(path), f"there is no such file ({path.absolute()})", HOW_TO_BEGIN) from error
    except IsADirectoryError as error:
        inside = path / "proxy.toml"
        raise _unreadable(str(path), "this is a folder", f"did you mean {inside}?" * inside.exists()) from error
    except PermissionError as error:
        raise _unreadable(str(path), "reading it is not permitted", f"see its owner and mode: ls -l {path}") from error
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), f"it cannot be read: {error}") from error
    if len(content) > LARGEST:
        raise _unreadable(str(path), f"it is larger than {LARGEST // 1024} KiB; is this the config?")
    return content


def _decode(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")  # an editor's byte order mark is not worth an error
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{content[error.start]:02x} is not UTF-8, and TOML is"
        raise ConfigError([Problem(file, line, column, "", message, "save the file as UTF-8")]) from error


def _unreadable(file: str, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Problem(file, 0, 0, "", message, hint)])
