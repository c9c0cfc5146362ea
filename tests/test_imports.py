"""Who may import whom, as `proxy/__init__.py` says it; and what a quick verb must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import FakeProxy

ROOT = Path(__file__).parents[1] / "proxy"
EVERYONE = {"errors", "logs", "__init__"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "kernel": set(),
    "wire": {"core"},
    "config": {"core"},
    "relay": {"core", "kernel", "wire"},
    "metrics": {"core", "wire"},
    "control": {"config", "core", "kernel", "metrics", "relay", "wire"},
    "api": {"config", "core", "kernel"},
    "cli": {"config", "core", "kernel"},
    "main": {"api", "config", "control", "core", "kernel", "metrics"},
    "errors": set(),
    "logs": set(),
    "__init__": set(),
}
FOREIGN = {  # third parties that a room must do without: pure logic, and what has to start fast and small
    "core": {"trio", "pydantic", "starlette", "hypercorn", "click", "prometheus_client"},
    "relay": {"pydantic", "starlette", "hypercorn", "click", "prometheus_client"},
    "kernel": {"pydantic", "starlette", "hypercorn", "click", "prometheus_client"},
    "config": {"trio", "starlette", "hypercorn", "click"},
    "cli": {"trio", "pydantic", "starlette", "hypercorn"},
}


def room(module: str) -> str:
    """`proxy.api.server` → `api`; `proxy` → `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, also for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            if node.module == "proxy":  # from proxy import logs
                known = {alias.name for alias in node.names}
                found |= {f"proxy.{name}" for name in known if name in MAY_IMPORT} or {"proxy"}
            else:
                found.add(node.module)
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    own = room(module_of(path))
    ours = {room(module) for module in imported(path) if module.split(".")[0] == "proxy"}
    wrong = ours - MAY_IMPORT[own] - EVERYONE - {own}
    assert not wrong, f"{path.relative_to(ROOT.parent)} imports {', '.join(sorted(wrong))}"
    theirs = {module.split(".")[0] for module in imported(path)}
    heavy = theirs & FOREIGN.get(own, set()) if path.parent.name != "demo" else set()  # the demo is a load client too
    assert not heavy, f"{path.relative_to(ROOT.parent)} imports {', '.join(sorted(heavy))}"


def test_the_rules_would_notice(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "from proxy import wire, __version__\n"
        "def f():\n    from proxy.control.app import App\n    import trio.testing\n"
    )
    assert imported(file) == {"proxy.wire", "proxy.control.app", "trio.testing"}
    assert room("proxy.control.app") == "control"
    assert room("proxy") == "__init__"


SLOW = {"trio", "pydantic", "starlette", "hypercorn", "prometheus_client", "asyncio", "http.client", "logging"}
QUICK = ["status", "history", "pause", "resume", "reload", "swap", "logs", "stop", "run", "rollback", "restart", "help"]


@pytest.mark.parametrize("verb", QUICK)
def test_a_quick_verb_loads_nothing_slow(verb: str) -> None:
    loaded = modules_after(f"import proxy.cli, proxy.cli.{verb}")
    assert not loaded & {
        "trio",
        "pydantic",
        "starlette",
        "hypercorn",
        "prometheus_client",
        "logging",
        "asyncio",
    }


def test_status_loads_nothing_slow_while_it_talks(tmp_path: Path) -> None:
    fake = FakeProxy(tmp_path / "control.sock")
    fake.start()
    try:
        loaded = modules_after(
            f"import proxy.cli; assert proxy.cli.perform(['status', '--socket', {str(fake.socket)!r}]) == 0"
        )
    finally:
        fake.end()
    assert "proxy.cli.status" in loaded
    assert not loaded & (SLOW | {"proxy.cli.swap", "proxy.cli.events"})


def test_a_worker_starts_without_what_only_control_needs() -> None:
    loaded = modules_after("import proxy.relay.__main__")
    assert not loaded & {"pydantic", "starlette", "hypercorn", "prometheus_client", "click"}
    assert not {module for module in loaded if module.startswith(("proxy.control", "proxy.config", "proxy.api"))}


def modules_after(code: str) -> set[str]:
    """What Python has loaded after some code, in a process of its own."""
    code += "; import sys; sys.stdout.flush(); print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())
