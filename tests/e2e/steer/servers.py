"""Real servers, unmodified, as versions of a service that is steered, and what each needs to end in peace."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.e2e import configs
from tests.e2e.http_harness import Backends
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = Path(__file__).with_name("programs")

# Many tell their clients that they leave when they are told so. What just goes when it is told to is told last.
GRACEFUL, LAST = 'signal_at = "start"', 'signal_at = "end"'
_DRAINS = {
    "nginx": 'stop_signal = "SIGQUIT"',
    "haproxy": 'stop_signal = "SIGUSR1"',
    "redis": LAST,
    "iperf3": LAST,
    "http_server": LAST,
    "hasty": LAST,
}


def many(*options: str, replicas: int = 1, port: str = "{port}") -> str:
    """A version that runs many.py, without which it would take long to start Python."""
    program = str(PROGRAMS / "many.py")
    return configs.command(sys.executable, "-I", "-S", program, "--port", port, *options) + f"replicas = {replicas}\n"


class Servers:
    """Versions, as TOML, by the name of a server: one of the methods, or of those of `Backends`.

    Answers begin with `VERSION GENERATION`, where the server speaks HTTP. A context manager: what needs a folder that
    another user may read has one of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._backends = Backends(folder)
        self._public: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._public:
            shutil.rmtree(self._public, ignore_errors=True)

    def version(self, server: str, name: str) -> str:
        """Skips the test, or fails it, if the server is not installed."""
        own: Callable[[str], str] | None = getattr(self, server, None)
        return own(name) if own else self._backends.version(server, name)

    @staticmethod
    def drain(server: str) -> str:
        """What its service says about drains."""
        return _DRAINS.get(server.partition("_")[0], _DRAINS.get(server, GRACEFUL))

    def nginx(self, name: str, *, workers: int = 1, options: str = "") -> str:
        program = need("nginx", package="nginx-light")
        template = self._folder / f"nginx-{name}-{workers}-{options}.conf"
        words = {"FOLDER": str(self._folder), "VERSION": name, "WORKERS": str(workers), "OPTIONS": options}
        text = (PROGRAMS / "nginx.conf").read_text()
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        template.write_text(text)
        config = f"{self._folder}/{{port}}.conf"
        fill = f"sed 's/@PORT@/{{port}}/; s/@GENERATION@/{{generation}}/' {template} > {config}"
        return configs.command("sh", "-c", f"{fill} && exec {program} -e stderr -p {self._folder} -c {config}")

    def nginx_workers(self, name: str) -> str:
        return self.nginx(name, workers=3)

    def nginx_reuseport(self, name: str) -> str:
        return self.nginx(name, workers=3, options="reuseport")

    def haproxy(self, _: str) -> str:
        program = need("haproxy", package="haproxy")
        return configs.command(program, "-W", "-f", str(PROGRAMS / "haproxy.cfg"))

    def node_cluster(self, _: str) -> str:
        return configs.command(need("node", package="nodejs"), str(PROGRAMS / "cluster.js"), "{port}")

    def many_workers(self, _: str) -> str:
        return many("--workers=3")

    def many_sockets(self, _: str) -> str:
        return many("--workers=3", "--own")

    def many_gap(self, _: str) -> str:
        return many("--reopen=gap")

    def many_overlap(self, _: str) -> str:
        return many("--reopen=overlap")

    def hasty(self, _: str) -> str:
        """SIGTERM ends it at once, whomever it serves."""
        return configs.backend()

    def iperf3(self, _: str) -> str:
        program = need("iperf3", package="iperf3")
        return configs.command(program, "--server", "--bind", "127.0.0.1", "--port", "{port}")

    def postgres(self, name: str) -> str:
        """Each version has its own data. It will not run as root, and no socket file is made."""
        data = self._data(name)
        settings = ("fsync=off", "unix_socket_directories=", "max_connections=50", "shared_buffers=1MB")
        options = [word for setting in settings for word in ("-c", setting)]
        words = [f"{_postgresql()}/postgres", "-D", str(data), "-h", "127.0.0.1", "-p", "{port}", *options]
        return f'{configs.command(*words)}cwd = "{data}"\nuser = "postgres"\n'

    def _data(self, name: str) -> Path:
        if self._public is None:
            self._public = Path(tempfile.mkdtemp(prefix="steer-postgres-"))
            shutil.chown(self._public, "postgres", "postgres")
            initdb = f"{_postgresql()}/initdb"
            options = ["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "--no-instructions"]
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
            command = [*as_user, initdb, *options, "-D", str(self._public / "first")]
            subprocess.run(command, cwd="/", check=True, capture_output=True)
        data = self._public / name
        subprocess.run(["cp", "-a", self._public / "first", data], check=True)
        return data


def _postgresql() -> Path:
    """Where the programs of PostgreSQL are: Debian keeps them off the PATH, by their version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program is None:
        missing("initdb is not installed: apt-get install postgresql")
    return Path(program).parent
