"""Each file of `broken/` begins with what is wrong with it, a line each: `# expect: LINE KEY part-of-the-message`.

A KEY of - is none. A mistake that is not reported, or in the wrong place, sends people to the wrong line at night.
"""

import re
from pathlib import Path

import pytest

from proxy.config import load
from proxy.errors import ConfigError

BROKEN = sorted((Path(__file__).parent / "broken").glob("*.toml"))
_EXPECT = re.compile(r"^# expect: (\d+) (\S+) (.+)$", re.MULTILINE)


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_mistake_is_reported_with_its_line_and_key_and_nothing_else_is(path: Path) -> None:
    expected = [
        (int(line), key.removeprefix("-") if key == "-" else key, part)
        for line, key, part in _EXPECT.findall(path.read_text())
    ]

    with pytest.raises(ConfigError) as caught:
        load(path)

    problems = caught.value.problems
    assert [(each.line, each.key) for each in problems] == [(line, key) for line, key, _ in expected]
    for problem, (_, _, part) in zip(problems, expected, strict=True):
        assert part in problem.message
        assert problem.file == str(path)
        assert problem.column >= 1


def test_the_corpus_is_not_empty_by_accident() -> None:
    assert len(BROKEN) > 100
