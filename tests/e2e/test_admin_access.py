"""The admin address beyond this machine: who gets in, by what, and what is written down of it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.config.certificates import make_certificate
from tests.e2e import configs
from tests.e2e.harness import Proxy, eventually, free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

ACT, READ, NEW = "act-" + "a" * 28, "read-" + "r" * 27, "new-" + "n" * 28


class Guarded:
    """A proxy that others could reach, with TLS and tokens."""

    def __init__(self, folder: Path, *keys: str) -> None:
        self.folder = folder
        self.admin = free_port()
        self.tokens = folder / "tokens"
        self.write_tokens(ACT, READ)
        make_certificate(folder, "cert.pem", "key.pem")
        admin = "\n".join(
            [
                f'listen = "0.0.0.0:{self.admin}"',
                'token_file = "tokens"\ntls_cert = "cert.pem"\ntls_key = "key.pem"',
                *keys,
            ]
        )
        self.proxy = Proxy(folder, configs.service(free_port()), admin=admin)

    def write_tokens(self, *tokens: str) -> None:
        aside = self.folder / "aside"
        aside.touch(mode=0o600)
        aside.write_text("\n".join(tokens) + "\n")
        aside.replace(self.tokens)

    def ask(self, path: str, token: str = "", body: Any = None) -> tuple[int, Any]:
        """As a script does it. Raises URLError if the certificate is not the one that is in the folder now."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"https://localhost:{self.admin}{path}", data, {**headers, "Content-Type": "application/json"}
        )
        context = ssl.create_default_context(cafile=self.folder / "cert.pem")
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content.startswith((b"{", b"[")) else content.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path_factory.mktemp("guarded"), 'metrics = "token"')
    with guarded.proxy:
        yield guarded


@pytest.mark.parametrize("listen", ["0.0.0.0:9900", "[::]:9900", "10.1.2.3:9900"])
def test_a_proxy_that_others_could_reach_does_not_start_without_a_token(tmp_path: Path, listen: str) -> None:
    proxy = Proxy(tmp_path, configs.service(free_port()), admin=f'listen = "{listen}"')
    done = subprocess.run(
        [sys.executable, "-P", "-m", "proxy.cli", "run", str(proxy.config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f'admin.listen: "{listen}" can be reached from other machines, which takes a token_file' in done.stderr
    assert "umask 077" in done.stderr
    assert "127.0.0.1:9900" in done.stderr


def test_a_token_file_that_others_can_read_keeps_it_from_starting(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    guarded.tokens.chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "proxy.cli", "run", str(guarded.proxy.config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "others may read it (mode 0644)" in done.stderr
    assert f"chmod 600 {guarded.tokens}" in done.stderr


def test_a_token_opens_and_nothing_else_does(guarded: Guarded) -> None:
    assert guarded.ask("/v1/status", ACT)[0] == 200
    assert guarded.ask("/v1/status", READ)[0] == 200
    assert guarded.ask("/v1/status")[0] == 401
    assert guarded.ask("/v1/status", "wrong")[0] == 401
    assert guarded.ask("/metrics")[0] == 401
    assert "proxy_build_info" in guarded.ask("/metrics", READ)[1]
    assert guarded.ask("/livez")[0] == guarded.ask("/readyz")[0] == 200
    status, answer = guarded.ask("/v1/services/web/swap", READ, {"version": "v2"})
    assert (status, answer["error"]["code"]) == (403, "read_only")
    assert guarded.proxy.service()["active"] == "v1"


def test_each_action_is_written_down_with_who_did_it(guarded: Guarded) -> None:
    proxy = guarded.proxy
    assert guarded.ask("/v1/services/web/swap", ACT, {"version": "v2", "wait": True})[1]["result"] == "swapped"
    assert guarded.ask("/v1/services/web/pause", ACT, {})[0] == 200
    proxy.ok("resume")
    proxy.ok("reload")
    assert proxy.process
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(_actions(proxy)) == 5, what="five actions")
    swap, pause, resume, reload, again = _actions(proxy)
    assert (swap["action"], swap["service"], swap["version"]) == ("swap", "web", "v2")
    assert (swap["by"]["via"], swap["by"]["as"]) == ("tcp", "token")
    assert swap["by"]["from"].startswith("127.0.0.1:")
    assert (pause["action"], pause["by"]["as"]) == ("pause", "token")
    assert (resume["action"], resume["by"]["via"], resume["by"]["as"]) == ("resume", "socket", "root")
    assert "proxy.cli resume" in resume["by"]["from"]
    assert (reload["action"], reload["service"]) == ("reload", None)
    assert again["by"] == {"via": "signal", "from": "SIGHUP", "as": ""}
    (result,) = proxy.ask("GET", "/v1/history")[1]["history"]
    assert result["by"] == swap["by"]
    lines = [line for line in proxy.log_text().splitlines() if " action " in line]
    assert [f"action={each['action']}" in line for each, line in zip(_actions(proxy), lines, strict=True)] == [True] * 5
    assert all(word in lines[0] for word in ("service=web", "version=v2", "by_via=tcp", "by_as=token"))
    told = proxy.ok("history")
    for words in (("swap", "v2", "token"), ("pause", "token"), ("resume", "root"), ("reload", "SIGHUP")):
        assert any(all(word in line for word in words) for line in told.splitlines()), told


def _actions(proxy: Proxy) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = proxy.ask("GET", "/v1/history")[1]["actions"]
    return found


def test_no_token_is_ever_shown(guarded: Guarded) -> None:
    proxy = guarded.proxy
    guarded.ask("/v1/status", ACT)
    guarded.ask("/v1/status", ACT[:-1] + "x")
    shown = proxy.log_text() + json.dumps(proxy.status()) + json.dumps(_actions(proxy)) + proxy.metrics().page
    shown += Path(f"/proc/{proxy.pid}/cmdline").read_text() + Path(f"/proc/{proxy.pid}/environ").read_text()
    for secret in (ACT, READ, ACT[:-1]):
        assert secret not in shown


def test_the_certificate_and_the_tokens_are_renewed_without_a_restart(guarded: Guarded) -> None:
    old = guarded.folder / "old.pem"
    old.write_bytes((guarded.folder / "cert.pem").read_bytes())
    guarded.write_tokens(NEW)
    assert guarded.ask("/v1/status", ACT)[0] == 401
    assert guarded.ask("/v1/status", READ)[0] == 401
    assert guarded.ask("/v1/status", NEW)[0] == 200
    make_certificate(guarded.folder, "new.pem", "new.key")
    os.replace(guarded.folder / "new.key", guarded.folder / "key.pem")
    context = ssl.create_default_context(cafile=old)
    with urllib.request.urlopen(f"https://localhost:{guarded.admin}/livez", context=context, timeout=30):
        pass  # one of the two is not there yet: the pair of before is used
    os.replace(guarded.folder / "new.pem", guarded.folder / "cert.pem")
    assert guarded.ask("/v1/status", NEW)[0] == 200
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        urllib.request.urlopen(f"https://localhost:{guarded.admin}/livez", context=context, timeout=30)
    guarded.write_tokens(ACT, READ)


def test_whoever_speaks_no_tls_gets_no_answer(guarded: Guarded) -> None:
    curl = need("curl", package="curl")
    command = [curl, "-sS", "--max-time", "20", f"http://127.0.0.1:{guarded.admin}/livez"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert guarded.ask("/livez")[0] == 200


def test_who_is_signed_in_stays_so_over_an_upgrade_of_the_proxy(guarded: Guarded) -> None:
    jar, curl = guarded.folder / "jar", need("curl", package="curl")
    here = f"https://localhost:{guarded.admin}"
    common = [curl, "-sS", "--cacert", str(guarded.folder / "cert.pem"), "-b", str(jar), "-c", str(jar)]

    def ask(path: str, *more: str) -> tuple[str, str]:
        command = [*common, "-o", "-", "-w", "\n%{http_code}", *more, here + path]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        body, _, status = done.stdout.rpartition("\n")
        return status, body

    assert ask("/")[0] == "303"
    assert ask("/login", "--data-urlencode", f"token={ACT}x")[0] == "401"
    assert ask("/login", "--data-urlencode", f"token={ACT}")[0] == "303"
    assert "__Host-proxyctl" in jar.read_text()
    guarded.proxy.ok("upgrade")
    status, body = ask("/v1/access")
    assert (status, json.loads(body)["right"]) == ("200", "page")
    act = ("-X", "POST", "-H", "Content-Type: application/json", "-d", "{}")
    assert ask("/v1/services/web/restart", *act)[0] == "403"  # it does not say which page asks
    assert ask("/v1/services/web/restart", *act, "-H", f"Origin: {here}.evil.example")[0] == "403"
    assert ask("/v1/services/web/restart", *act, "-H", f"Origin: {here}")[0] == "202"


def test_without_tls_it_starts_and_says_what_can_happen(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(ACT)
    admin = f'listen = "0.0.0.0:{free_port()}"\ntoken_file = "tokens"'
    with Proxy(tmp_path, configs.service(free_port()), admin=admin) as proxy:
        (line,) = [line for line in proxy.log_text().splitlines() if "without TLS" in line]
        assert " warning " in line
        assert "tls_cert" in line
