"""Services with protocol = "http", real servers behind them, and a client on one kept connection."""

from __future__ import annotations

import http.client
import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.e2e import configs
from tests.e2e.harness import PATIENCE, eventually
from tests.tools import missing, need

if TYPE_CHECKING:
    from email.message import Message

    from tests.e2e.harness import Proxy

FULL = os.environ.get("HTTP_SWAPS_FULL") == "1"
"""Whether the tests that are made smaller for the suite run in their full size."""

PROGRAMS = Path(__file__).with_name("http_backends")


def need_module(name: str) -> None:
    """Skip the test, or fail it where nothing may be skipped, if a Python package is not there."""
    if importlib.util.find_spec(name) is None:
        missing(f"{name} is not installed: pip install {name}")


class Backends:
    """Versions of a service, as TOML, each of them a real server; and what their processes have in common.

    The answer to `GET /` is `VERSION GENERATION`, but for `python3 -m http.server`'s, which is the version alone.
    What else they understand is said in each program of http_backends.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` exists; ledger, gates and the servers' own files go there."""
        self._folder = folder
        self._ledger = folder / "ledger"
        self._gates = folder / "gates"
        self._ledger.touch()
        self._gates.mkdir(exist_ok=True)
        self.certificate = folder / "certificate.pem"
        self.env = {"LEDGER": str(self._ledger), "GATES": str(self._gates)}

    def entries(self) -> list[tuple[str, str, str]]:
        """Every request that was counted, as often as it was processed: id, version, generation."""
        lines = (line.split() for line in self._ledger.read_text().splitlines())
        return [(identity, version, generation) for identity, version, generation in lines]

    def open(self, gate: str) -> None:
        """Let go of the requests that wait at a gate."""
        (self._gates / gate).touch()

    def version(self, server: str, name: str = "v1", *, replicas: int = 1) -> str:
        """The version `name` as a server that is named like one of the methods below. Skips if it is not installed."""
        lines: str = getattr(self, server)(name) + f"replicas = {replicas}\n"
        return lines

    def plain(self, _: str = "") -> str:
        return self._command(sys.executable, "-S", str(PROGRAMS / "plain.py"), "{port}")

    def node(self, _: str = "") -> str:
        return self._command(need("node", package="nodejs"), str(PROGRAMS / "server.js"), "{port}")

    def uvicorn(self, _: str = "") -> str:
        for module in ("uvicorn", "websockets"):
            need_module(module)
        # Nothing ends because it was idle for some seconds, which could look as if the proxy had ended it.
        return self._python(
            "uvicorn", "asgi:app", f"--app-dir={PROGRAMS}", "--port={port}", "--log-level=warning",
            "--timeout-keep-alive=3600",
        )  # fmt: skip

    def hypercorn(self, _: str = "") -> str:
        """It speaks HTTP/2 in clear text too, with prior knowledge and by Upgrade."""
        return self._python("hypercorn", "--bind=127.0.0.1:{port}", f"{PROGRAMS / 'asgi.py'}:app")

    def gunicorn_sync(self, _: str = "") -> str:
        return self._gunicorn("sync")

    def gunicorn_gthread(self, _: str = "") -> str:
        return self._gunicorn("gthread", "--threads=8")

    def http_server(self, name: str) -> str:
        """HTTP/1.0: a connection for each request."""
        folder = self._folder / f"site-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "index.html").write_text(name)
        return self._python("http.server", "--bind=127.0.0.1", f"--directory={folder}", "{port}")

    def nginx(self, name: str, *, options: str = "", tls: str = "") -> str:
        """`options` of its `listen`, and lines for its server block."""
        program = need("nginx", package="nginx-light")
        template = self._folder / f"{name}.conf"
        words = {"FOLDER": str(self._folder), "VERSION": name, "OPTIONS": options, "TLS": tls}
        text = (PROGRAMS / "nginx.conf").read_text()
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        template.write_text(text)
        config = f"{self._folder}/{{port}}.conf"
        fill = f"sed 's/@PORT@/{{port}}/; s/@GENERATION@/{{generation}}/' {template} > {config}"
        return configs.command("sh", "-c", f"{fill} && exec {program} -e stderr -p {self._folder} -c {config}")

    def nginx_http2(self, name: str) -> str:
        """HTTP/2 in clear text, with prior knowledge alone."""
        return self.nginx(name, options="http2")

    def nginx_tls(self, name: str) -> str:
        """HTTP/1 and HTTP/2 over TLS, for localhost; `certificate` is what to trust."""
        if not self.certificate.exists():
            subprocess.run(
                [need("openssl", package="openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                 "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                 "-keyout", self._folder / "key.pem", "-out", self.certificate],
                check=True, capture_output=True,
            )  # fmt: skip
        tls = f"ssl_certificate {self.certificate}; ssl_certificate_key {self._folder / 'key.pem'};"
        return self.nginx(name, options="ssl http2", tls=tls)

    def redis(self, _: str = "") -> str:
        return configs.redis()

    def echo(self, _: str = "") -> str:
        """Bytes, and the end after the client's."""
        socat = need("socat", package="socat")
        return configs.command(socat, "TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=64", "SYSTEM:cat")

    def _gunicorn(self, worker: str, *options: str) -> str:
        need_module("gunicorn")
        # Newer ones keep a control socket in one of these, and two of them at a time would fight over it.
        self.env |= dict.fromkeys(("HOME", "XDG_RUNTIME_DIR"), f"{self._folder}/gunicorn-{{generation}}")
        return self._python(
            "gunicorn", "wsgi:app", f"--chdir={PROGRAMS}", "--bind=127.0.0.1:{port}", f"--worker-class={worker}",
            "--workers=2", *options,
        )  # fmt: skip

    def _python(self, module: str, *arguments: str) -> str:
        return self._command(sys.executable, "-m", module, *arguments)

    def _command(self, *words: str) -> str:
        env = ", ".join(f'{name} = "{value}"' for name, value in self.env.items())
        return f"{configs.command(*words)}env = {{ {env} }}\n"


def service(listen: int, *, name: str = "web", keys: str = "", http: str = "", **others: str) -> str:
    """A service table with protocol = "http"; `http` are lines of its table of that name. See configs.service."""
    keys = f'protocol = "http"\n{keys}\n[services.{name}.http]\n{http}'
    return configs.service(listen, name=name, keys=keys, **others)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def version(self) -> str:
        return self.text.split()[0]


class Kept:
    """A client on one connection that it never opens again. Its end is an OSError or an http.client.HTTPException."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.connection.connect()
        self.connection.auto_open = 0
        self.port: int = self.connection.sock.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, method: str, path: str = "/", body: bytes | None = None, **headers: str) -> None:
        """Send one request; `headers` with "_" for "-"."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, fields)

    def write(self, data: bytes) -> None:
        """Send bytes as they are; after a whole request, `read` its answer."""
        self.connection.sock.sendall(data)

    def answer(self) -> Answer:
        """The answer to what was sent."""
        with self.connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read())

    def read(self, method: str = "GET") -> Answer:
        """The answer to a request that was written as bytes."""
        with http.client.HTTPResponse(self.connection.sock, method=method) as response:
            response.begin()
            return Answer(response.status, response.headers, response.read())

    def ask(self, method: str, path: str = "/", body: bytes | None = None, **headers: str) -> Answer:
        self.send(method, path, body, **headers)
        return self.answer()


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes on a connection of their own, and return all that comes back until it ends."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def clients_of(port: int) -> set[int]:
    """The client ports of the connections that are established with a port of this machine."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        if state == "01" and int(local.split(":")[1], 16) == port:  # TCP_ESTABLISHED
            found.add(int(remote.split(":")[1], 16))
    return found


def wait_in_flight(proxy: Proxy, count: int) -> None:
    """Wait until so many requests are with backends."""
    eventually(
        lambda: counter(proxy, "proxy_http_requests_in_flight") == count, what=f"{count} requests are with backends"
    )


def counter(proxy: Proxy, name: str, **labels: str) -> float:
    """A metric's sum over its series that have these labels; 0 when there are none."""
    wanted = set(labels.items())
    values = proxy.metrics().values.items()
    return sum(value for (of, has), value in values if of == name and wanted <= set(has))
