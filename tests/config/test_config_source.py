"""A file that cannot be read has to say why, in the words of who has to repair it."""

from pathlib import Path

import pytest

from proxy.config.source import LARGEST, Source
from proxy.errors import ConfigError, Problem


def problem_of(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        Source.read(path)
    (problem,) = caught.value.problems
    return problem


def test_a_missing_file_says_where_it_should_be_and_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = problem_of(Path("proxy.toml"))

    assert str(tmp_path / "proxy.toml") in problem.message
    assert "proxyctl demo" in problem.hint
    assert "[services.web]" in problem.hint


def test_a_folder_leads_to_the_file_in_it(tmp_path: Path) -> None:
    assert problem_of(tmp_path).hint == ""

    (tmp_path / "proxy.toml").touch()
    assert problem_of(tmp_path).hint == f"did you mean {tmp_path / 'proxy.toml'}?"


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "not permitted" in problem_of(tmp_path / "proxy.toml").message


@pytest.mark.parametrize("name", ["proxy.toml/x", "nul\0byte", "x" * 300])
def test_a_path_that_leads_nowhere_is_a_problem_not_a_crash(tmp_path: Path, name: str) -> None:
    (tmp_path / "proxy.toml").touch()

    assert "cannot be read" in problem_of(tmp_path / name).message


def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_bytes("# é\n# é".encode() + b" caf\xe9\n")
    problem = problem_of(path)

    assert (problem.line, problem.column) == (2, 8)
    assert "0xe9" in problem.message


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_bytes(b"\xef\xbb\xbfworkers = 2\n")

    source = Source.read(path)
    assert source.table == {"workers": 2}
    assert source.places.of_value(("workers",)) == (1, 11)


def test_a_file_that_never_ends_is_not_read_to_its_end() -> None:
    assert f"larger than {LARGEST // 1024} KiB" in problem_of(Path("/dev/zero")).message


def test_nesting_that_exhausts_the_parser_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text("a = " + "[" * 100_000)

    assert "nested too deeply" in problem_of(path).message
