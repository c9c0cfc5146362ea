"""What CI checks, one session each: `nox` runs them all, `nox -s lint` one, `nox -l` lists them."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests", "wheel"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, by ruff."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy --strict."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite; arguments after -- go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """What users install: the built wheel alone, used from an empty folder."""
    dist = Path(session.create_tmp())
    for old in dist.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(dist), ".")
    # The file, not the name: an unrelated project on PyPI is called the same.
    session.install(*(str(built.absolute()) for built in dist.glob("*.whl")))
    session.chdir(dist)
    session.run("proxyctl", "--version")
    session.run("proxyctl", "check", "--schema", silent=True)


if __name__ == "__main__":
    nox.main()
