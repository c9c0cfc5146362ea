"""Services whose backends accept on the public listener themselves (datapath "inherit"), and what is seen of that."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Held, Proxy, eventually
from tests.e2e.http_harness import need_module
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).with_name("inherited_programs")
INHERIT = 'datapath = "inherit"\n'
_LISTEN = "0A"  # TCP_LISTEN, net/tcp_states.h


def heir(*options: str, replicas: int = 1) -> str:
    """A version that runs heir.py."""
    words = [sys.executable, "-I", "-S", str(PROGRAMS / "heir.py"), *options]
    return configs.command(*words) + f"replicas = {replicas}\n"


def service(listen: int | str | list[str], *, keys: str = INHERIT, **others: str) -> str:
    """A service table; without versions: v1, v2 and v3 of heir.py. See configs.service."""
    if not set(others) - {"name", "active", "health", "drain"}:
        others |= {version: heir("--fd={fd}") for version in ("v1", "v2", "v3")}
    return configs.service(listen, keys=keys, **others)


def uvicorn(_: Path) -> str:
    """Unmodified, with READY=1 from the app."""
    need_module("uvicorn")
    return _python("-m", "uvicorn", "app:app", f"--app-dir={PROGRAMS}", "--fd={fd}", "--log-level=warning")


def patient_uvicorn(_: Path) -> str:
    need_module("uvicorn")
    return _python(str(PROGRAMS / "patient_uvicorn.py"), "app:app", "--fd", "{fd}")


def gunicorn(folder: Path, *options: str) -> str:
    need_module("gunicorn")
    # Newer ones keep a control socket in one of these, and two of them at a time would fight over it.
    env = ", ".join(f'{name} = "{folder}/gunicorn-{{generation}}"' for name in ("HOME", "XDG_RUNTIME_DIR"))
    words = ("-m", "gunicorn", "app:wsgi", f"--chdir={PROGRAMS}", "--workers=2", "--preload", *options)
    return f"{_python(*words)}env = {{ {env} }}\n"


def gunicorn_gthread(folder: Path) -> str:
    return gunicorn(folder, "--worker-class=gthread", "--threads=8")


def _python(*words: str) -> str:
    return configs.command(sys.executable, *words)


class Unprivileged(Proxy):
    """A proxy that an ordinary user runs: whoever runs the tests, root under another uid and without any capability."""

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_as_user(), sys.executable, "-P", "-m", "proxy.cli", "run", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()


def _as_user() -> list[str]:
    """In a user namespace the files of root, Python's among them, are that user's: user_namespaces(7)."""
    if os.geteuid() != 0:
        return []
    words = [need("unshare", package="util-linux"), "--user", "--map-user=1000", "--map-group=1000", "--"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        missing("needs user namespaces, which this machine does not allow: sysctl user.max_user_namespaces")
    return words


def listener(port: int) -> str:
    """The inode of the socket that listens on a port of 127.0.0.1: another one is another socket."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    (found,) = [row[9] for row in rows if row[3] == _LISTEN and row[1] == f"0100007F:{port:04X}"]
    return found


@contextlib.contextmanager
def parked(port: int, count: int) -> Iterator[list[Held]]:
    """So many clients that have sent a request, and have not been waited for."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Held(port)) for _ in range(count)]
        for client in clients:
            client.send()
        yield clients


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs, each of its threads; it may have been killed at the end."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: _states(pid) == {"T"}, what="it stands")
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> set[str]:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {thread.read_text().rpartition(")")[2].split()[0] for thread in threads}
