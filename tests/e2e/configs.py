"""Configs for the tests: services in front of the small backend of the tests, and of real servers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.tools import need

_BACKEND = Path(__file__).with_name("backend.py")

NGINX = """
user root;
worker_processes 1;
daemon off;
pid {folder}/@PORT@.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:@PORT@ backlog=4096;
        location / {{ return 200 "{name} @GENERATION@"; }}
    }}
}}
"""


def service(
    listen: int | str | list[str],
    *,
    name: str = "web",
    active: str = "v1",
    keys: str = "",
    health: str = "",
    drain: str = "",
    **versions: str,
) -> str:
    """A service table; `keys`, `health`, `drain` and each version are TOML lines. Without versions: v1, v2 and v3."""
    public = f"127.0.0.1:{listen}" if isinstance(listen, int) else listen
    health = health or 'interval = "100ms"'
    tables = [f"[services.{name}]\nlisten = {json.dumps(public)}\nactive = {json.dumps(active)}\n{keys}"]
    tables += [f"[services.{name}.health]\n{health}", f"[services.{name}.drain]\n{drain}"]
    versions = versions or {version: backend() for version in ("v1", "v2", "v3")}
    tables += [f"[services.{name}.versions.{version}]\n{lines}" for version, lines in versions.items()]
    return "\n".join([*tables, ""])


def command(*words: str) -> str:
    return f"command = {json.dumps(words)}\n"


def backend(*options: str, replicas: int = 1, at: str = "--port={port}") -> str:
    """A version that runs the backend of the tests."""
    return command(sys.executable, "-I", "-S", str(_BACKEND), at, *options) + f"replicas = {replicas}\n"


def nginx(folder: Path, name: str) -> str:
    """A version that runs nginx; it answers `NAME GENERATION`."""
    program = need("nginx", package="nginx-light")
    template = folder / f"{name}.conf"
    template.write_text(NGINX.format(folder=folder, name=name))
    fill = f"sed 's/@PORT@/{{port}}/; s/@GENERATION@/{{generation}}/' {template} > {folder}/{{port}}.conf"
    return command("sh", "-c", f"{fill} && exec {program} -e stderr -p {folder} -c {folder}/{{port}}.conf")


def redis() -> str:
    """A version that runs redis-server, without persistence."""
    program = need("redis-server", package="redis-server")
    return command(program, "--bind", "127.0.0.1", "--port", "{port}", "--save", "", "--appendonly", "no")
