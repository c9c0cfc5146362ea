"""Releases of the proxy, good ones and others, and the folder that one of them is installed in.

A release is a copy of the package with another `__version__`. `current` is a symbolic link to the installed one. What
was started with $PYTHONPATH at it, and from elsewhere, finds what is installed then, as `pip install` would have it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import proxy

_PACKAGE = Path(proxy.__file__).parent
_OVER_EXEC = 'if "PROXY_INHERITED" in os.environ'  # the control process has become this code, and is to take over

# What to put at the top of which file: it runs when the release does.
_ADDED = {
    "cannot be imported": ("main.py", "import proxy.no_such_module"),
    "hangs in the check": (
        "main.py",
        'import signal, sys\nwhile "--rehearse" in sys.argv:\n    signal.pause()',
    ),
    "crashes after the exec": ("main.py", f'import os\n{_OVER_EXEC}:\n    raise RuntimeError("a bug in taking over")'),
    "hangs after the exec": ("main.py", f"import os, signal\nwhile {_OVER_EXEC[3:]}:\n    signal.pause()"),
}
# What to write instead of what, in which files.
_CHANGED = {
    "cannot read the config": ("config/*.py", r"\bkeep_warm\b", "stay_warm"),
    "does not know the messages": ("wire.py", r"(VERSION = |READS = frozenset).+", r"\g<1>({99})"),
    "does not know the state": ("control/state.py", r"(FORMAT = |READS = frozenset).+", r"\g<1>({98, 99})"),
}
DEFECTS = (*_ADDED, *_CHANGED)


class Releases:
    """`current` is where the installed one is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self.current = folder / "current"

    def make(self, version: str, defect: str = "", **constants: float) -> str:
        """A release that is not installed yet. `constants` have other values in it; a defect is one of DEFECTS."""
        package = self._folder / version / "proxy"
        shutil.copytree(_PACKAGE, package)  # with the compiled files: what is the same need not be compiled again
        _edit(package, "__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"')
        for name, value in constants.items():
            _edit(package, "**/*.py", rf"^{name} = [\d.]+", f"{name} = {value}")
        if defect in _ADDED:
            file, lines = _ADDED[defect]
            _edit(package, file, r"^import argparse$", f"{lines}\nimport argparse")
        elif defect:
            _edit(package, *_CHANGED[defect])
        return version

    def install(self, version: str) -> str:
        """In one step: there is always one."""
        aside = self._folder / "next"
        aside.symlink_to(self._folder / version)
        aside.replace(self.current)
        return version


def _edit(package: Path, files: str, pattern: str, replacement: str) -> None:
    count = 0
    for path in package.glob(files):
        text, changes = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        if changes:
            path.write_text(text)
        count += changes
    assert count, f"nothing in {files} is like {pattern}: these tests have to follow the code"
