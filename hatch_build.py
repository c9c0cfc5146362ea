"""Compiles what the relay does for every byte, where that is possible. Without it everything works, somewhat slower.

- `proxy/relay/_transfer.c` and `proxy/core/http/_scan.c`: always, if there is a C compiler and Python's headers; it
  takes a second or two.
- The relay's modules themselves, from the same Python source, by mypyc: with PROXYCTL_COMPILE=1 in the environment; it
  takes a minute or two, and then a failure is an error.

PROXYCTL_COMPILE=0 compiles nothing. An editable installation never has the modules compiled, so that it can be edited.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
_SOURCES = (Path("proxy/relay/_transfer.c"), Path("proxy/core/http/_scan.c"))
MODULES = (
    *(f"proxy/core/http/{name}.py" for name in ("body", "forwarded", "head", "messages", "opening")),
    *(
        f"proxy/relay/{name}.py"
        for name in (
            "acceptor",
            "attempt",
            "client",
            "connection",
            "engine",
            "generation",
            "parcel",
            "place",
            "seeker",
            "service",
            "timers",
        )
    ),
    *(
        f"proxy/relay/http/{name}.py"
        for name in ("client", "client_socket", "exchange", "reader", "search", "stream", "tunnel", "upstream")
    ),
)
_EVERYTHING = "1"
_NOTHING = "0"


class Compiler(BuildHookInterface):  # type: ignore[type-arg]
    """See above. hatchling finds it by its base."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return ["mypy[mypyc]>=1.18", "setuptools>=75"] if _wanted() == _EVERYTHING else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = _wanted()
        if wanted == _NOTHING:
            return
        root = Path(self.root)
        if version == "editable":
            self._compile_sources(root, root, is_needed=False)
            return
        self._folder = folder = Path(tempfile.mkdtemp(prefix="proxyctl-build-"))
        is_needed = wanted == _EVERYTHING
        built = _compile_modules(root, folder) if is_needed else []
        built += self._compile_sources(root, folder, is_needed=is_needed)
        for path in built:
            build_data["force_include"][str(path)] = str(path.relative_to(folder))
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, *_: object) -> None:
        if folder := getattr(self, "_folder", None):
            shutil.rmtree(folder)

    def _compile_sources(self, root: Path, folder: Path, *, is_needed: bool) -> list[Path]:
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


def _wanted() -> str:
    return os.environ.get("PROXYCTL_COMPILE", "")


def _compile_modules(root: Path, folder: Path) -> list[Path]:
    """Compile a copy of the sources; return the extension modules, which are found before the sources beside them."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(root / "proxy", folder / "proxy", dirs_exist_ok=True, ignore=ignored)
    subprocess.run([sys.executable, str(Path(__file__).absolute())], cwd=folder, check=True)
    return sorted({*folder.glob(f"*{_SUFFIX}"), *folder.glob(f"proxy/**/*{_SUFFIX}")})


def _run_mypyc() -> None:
    """Compile in the working directory. A process of its own, since setuptools has its ideas about arguments."""
    from mypyc.build import mypycify  # noqa: PLC0415  # only there if it was asked for
    from setuptools import setup  # noqa: PLC0415  # as above

    modules = mypycify(["--strict", *MODULES], opt_level="2", debug_level="0")
    setup(
        name="proxyctl-relay", packages=[], py_modules=[], ext_modules=modules, script_args=["build_ext", "--inplace"]
    )


if __name__ == "__main__":
    _run_mypyc()
