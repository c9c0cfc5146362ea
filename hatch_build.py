"""Compiles what the relay does for every byte, where there is a C compiler and Python's headers.

It takes a second or two. Without it everything works, somewhat slower; PROXYCTL_COMPILE=1 in the environment makes a
failure an error, and PROXYCTL_COMPILE=0 compiles nothing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
_SOURCES = (Path("proxy/relay/_transfer.c"), Path("proxy/core/http/_scan.c"))
_NEEDED = "1"
_UNWANTED = "0"


class Compiler(BuildHookInterface):  # type: ignore[type-arg]
    """See above. hatchling finds it by its base."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("PROXYCTL_COMPILE", "")
        if wanted == _UNWANTED:
            return
        root = Path(self.root)
        if version == "editable":
            self._compile(root, root, is_needed=wanted == _NEEDED)
            return
        self._folder = Path(tempfile.mkdtemp(prefix="proxyctl-build-"))
        for path in self._compile(root, self._folder, is_needed=wanted == _NEEDED):
            build_data["force_include"][str(path)] = str(path.relative_to(self._folder))
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, *_: object) -> None:
        if folder := getattr(self, "_folder", None):
            shutil.rmtree(folder)

    def _compile(self, root: Path, folder: Path, *, is_needed: bool) -> list[Path]:
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        built = []
        for source in _SOURCES:
            target = folder / source.with_suffix(_SUFFIX)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (why := _compile(compiler, root / source, target)):
                built.append(target)
            elif is_needed:
                raise RuntimeError(why)
            else:
                self.app.display_warning(f"{source} is not compiled, which costs some speed: {why[:300]}")
        return built


def _compile(compiler: list[str], source: Path, target: Path) -> str:
    """Return why that failed, or ""."""
    aside = target.with_suffix(".new")
    include = f"-I{sysconfig.get_path('include')}"
    command = [*compiler, "-O2", "-shared", "-fPIC", include, str(source), "-o", str(aside)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if done.returncode:
        return done.stderr
    aside.replace(target)  # in one step: a process that runs may have the old one mapped
    return ""
