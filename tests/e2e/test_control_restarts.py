"""Control is killed, and `proxyctl run` again: everything is as before, and what happened meanwhile is made up for."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e import configs, http_harness
from tests.e2e.crash_harness import Calm, Download, KeptLoad, Mortal, assert_never_less, serving
from tests.e2e.crashing import Order
from tests.e2e.harness import Held, eventually, fetch, free_port, is_alive, kill
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

TWO = "workers = 2\n"
SIZE = 64 << 20


def test_a_kill_under_load_is_seen_by_no_client_and_changes_nothing(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("web", "site", "files", "cache")}
    data = random.Random(7).randbytes(SIZE)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/bulk").write_bytes(data)
    server = configs.command(
        sys.executable, "-m", "http.server", "--bind=127.0.0.1", f"--directory={tmp_path}/site", "{port}"
    )
    config = (
        TWO
        + configs.service(ports["web"], v1=configs.backend(replicas=2), v2=configs.backend())
        + http_harness.service(ports["site"], name="site", v1=configs.backend(), v2=configs.backend())
        + configs.service(ports["files"], name="files", v1=server)
        + configs.service(ports["cache"], name="cache", v1=configs.redis())
    )
    with Mortal(tmp_path, config) as proxy, ExitStack() as stack:
        proxy.operate("swap", "site", version="v2")
        web = stack.enter_context(Calm(ports["web"], 4))
        kept = stack.enter_context(KeptLoad(ports["site"], 4))
        bench = stack.enter_context(_benchmark(ports["cache"]))
        bulk = stack.enter_context(Download(ports["files"], SIZE))
        web.wait_for(50)
        kept.wait_for(50)
        before = _view(proxy)
        counted = proxy.metrics()
        proxy.crash()
        web.wait_for(50)
        kept.wait_for(50)
        bulk.wait_for(SIZE // 4)
        proxy.start()
        again = proxy.metrics()
        web.wait_for(50)
        kept.wait_for(50)
        assert _view(proxy) == before
        assert_never_less(counted, again)
        assert_never_less(again, proxy.metrics())
        for service in ("web", "site"):
            proxy.operate("swap", service, version="v2" if service == "web" else "v1")
        web.wait_for(50)
        kept.wait_for(50)
        bulk.go_on()
        assert bulk.digest() == hashlib.sha256(data).hexdigest()
        assert bench.poll() is None, "redis-benchmark ends with its first error"
        for load in (web, kept):
            load.stop()
            assert not load.errors
        proxy.assert_nothing_is_lost()


def test_it_can_be_killed_again_and_again_at_any_moment(tmp_path: Path) -> None:
    port, moments = free_port(), random.Random(4)
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Calm(port, 4) as load, Held(port) as held:
        held.ask()
        before = _view(proxy)
        for _ in range(6):
            proxy.crash(at_once=True)
            proxy.start(wait=False)
            time.sleep(moments.uniform(0.3, 1.2))
        proxy.crash(at_once=True)
        proxy.start()
        assert held.ask().startswith("v1 1 ")
        load.wait_for(20)
        assert _view(proxy) == before
        assert not load.errors
        held.close()
        proxy.operate("swap", version="v2")
        proxy.assert_nothing_is_lost()


def test_a_paused_service_stays_paused(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port, keys='connect_timeout = "1s"')) as proxy, ExitStack() as stack:
        open_one = stack.enter_context(Held(port))
        open_one.ask()
        proxy.ok("pause")
        waiting = [stack.enter_context(Held(port)) for _ in range(4)]
        for client in waiting:
            client.send()
        proxy.crash()
        proxy.start(wait=False)
        proxy.wait_answer()
        assert proxy.service()["state"] == "paused"
        waiting.append(stack.enter_context(Held(port)))
        waiting[-1].send()
        assert not any(client.has_answer(0.1) for client in waiting)
        assert open_one.ask().startswith("v1 1 ")
        proxy.ok("resume")
        assert {client.answer().split()[0] for client in waiting} == {"v1"}


def test_addresses_that_run_elsewhere_are_served_on(tmp_path: Path) -> None:
    port, elsewhere = free_port(), free_port()
    script = Path(configs.__file__).with_name("backend.py")
    process = subprocess.Popen([sys.executable, "-I", "-S", str(script), f"--port={elsewhere}"])
    try:
        Held(elsewhere, patient=True).close()
        config = TWO + configs.service(port, v1=f'address = "127.0.0.1:{elsewhere}"\n', v2=configs.backend())
        with Mortal(tmp_path, config) as proxy, Calm(port, 4) as load, Held(port) as held:
            held.ask()
            before = _view(proxy)
            proxy.crash()
            load.wait_for(20)
            proxy.start()
            assert _view(proxy) == before
            load.wait_for(20)
            proxy.begin("swap", version="v2", deadline="60s")
            eventually(lambda: proxy.service()["state"] == "draining", what="it drains")
            proxy.crash()
            proxy.start()
            assert held.ask()
            assert [each["state"] for each in proxy.service()["generations"]] == ["draining", "active"]
            held.close()
            eventually(lambda: len(proxy.service()["generations"]) == 1, what="it has drained")
            load.stop()
            assert not load.errors
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_warm_generation_stays_warm_until_its_time_is_over(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port, drain='keep_warm = "10s"')) as proxy, Calm(port, 4) as load:
        (first,) = proxy.pids()
        proxy.operate("swap", version="v2")
        warm = time.monotonic()
        (second,) = proxy.pids()
        proxy.crash()
        proxy.start()
        assert [each["state"] for each in proxy.service()["generations"]] == ["warm", "active"]
        result = proxy.operate("rollback")
        assert result["phases"]["start"] == 0
        assert proxy.pids() == [first]
        assert time.monotonic() - warm < 10, "too slow for this test to mean anything"

        warm = time.monotonic()
        proxy.crash()
        proxy.start()
        eventually(lambda: not is_alive(second), what="the warm one is stopped")
        assert 9 < time.monotonic() - warm < 15
        load.wait_for(20)
        load.stop()
        assert not load.errors
        proxy.assert_nothing_is_lost()


def test_a_warm_generation_whose_time_is_over_meanwhile_is_stopped(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port, drain='keep_warm = "300ms"')) as proxy:
        (old,) = proxy.pids()
        proxy.begin("swap", version="v2")
        eventually(lambda: proxy.service()["generations"][0]["state"] == "warm", what="it is warm")
        proxy.crash()
        time.sleep(0.3)
        proxy.start()
        eventually(lambda: not is_alive(old), within=3, what="the warm one is stopped")
        proxy.assert_nothing_is_lost()


def test_a_drain_ends_at_its_original_deadline(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Held(port) as stays, Held(port) as goes:
        stays.ask()
        goes.ask()
        proxy.begin("swap", version="v2", deadline="6s")
        eventually(lambda: proxy.service()["state"] == "draining", what="it drains")
        before = proxy.generation(1)
        assert before
        file = proxy.state_dir / "state.json"
        eventually(lambda: '"initial"' in file.read_text(), what="it is on file")
        proxy.crash()
        proxy.start()
        after = proxy.generation(1)
        assert after
        assert after["state"] == "draining"
        assert after["drain"] == before["drain"]
        goes.close()
        assert stays.ask().startswith("v1 1 ")
        eventually(lambda: _has_ended(stays), what="the deadline")
        assert -0.2 < time.time() - before["drain"]["deadline"] < 1
        (entry,) = eventually(lambda: proxy.history("web"), what="the end of the swap")
        assert (entry["result"], entry["drained"], entry["forced"]) == ("swapped", 1, 1)
        assert 5.5 < entry["phases"]["drain"] < 7.5
        proxy.assert_nothing_is_lost()


def test_a_drain_that_became_empty_while_control_was_away_is_over(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy:
        with Held(port) as client:
            client.ask()
            (old,) = proxy.pids()
            proxy.begin("swap", version="v2", deadline="60s")
            eventually(lambda: proxy.service()["state"] == "draining", what="it drains")
            proxy.crash()
        proxy.start()
        (entry,) = eventually(lambda: proxy.history("web"), within=5, what="the end of the swap")
        assert (entry["result"], entry["drained"], entry["forced"]) == ("swapped", 1, 0)
        eventually(lambda: not is_alive(old), what="its backend is gone")


def test_two_drains_side_by_side_go_on(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Held(port) as first, ExitStack() as stack:
        first.ask()
        proxy.begin("swap", version="v2", deadline="60s")
        eventually(lambda: fetch(port).startswith("v2"), what="it has switched")
        second = stack.enter_context(Held(port))
        second.ask()
        eventually(lambda: proxy.service()["operation"] is None, what="another one may begin")
        proxy.begin("swap", version="v3", deadline="50s")
        eventually(lambda: fetch(port).startswith("v3"), what="it has switched")
        proxy.crash()
        proxy.start()
        assert [each["state"] for each in proxy.service()["generations"]] == ["draining", "draining", "active"]
        assert first.ask().startswith("v1 1 ")
        assert second.ask().startswith("v2 2 ")
        second.close()
        (entry,) = eventually(lambda: proxy.history("web"), what="the second swap is over")
        assert (entry["from"], entry["to"], entry["result"], entry["drained"]) == ("v2", "v3", "swapped", 1)
        first.close()
        eventually(lambda: len(proxy.history("web")) == 2, what="the first swap is over")
        assert proxy.history("web")[1]["to"] == "v2"
        proxy.assert_nothing_is_lost()


def test_a_backend_that_died_while_control_was_away_is_started_again(tmp_path: Path) -> None:
    port = free_port()
    config = TWO + configs.service(port, v1=configs.backend(replicas=2), keys='connect_timeout = "20s"')
    with Mortal(tmp_path, config) as proxy, Calm(port, 4) as load:
        eventually(lambda: all(each["healthy"] for each in proxy.active()["replicas"]), what="both are there")
        dead, alive = proxy.pids()
        proxy.crash()
        when = kill(dead)
        load.wait_for(20)
        proxy.start()
        eventually(lambda: all(each["healthy"] for each in proxy.active()["replicas"]), what="both are there")
        first, second = proxy.active()["replicas"]
        assert first["pid"] != dead
        assert first["restarts"] == 1
        assert (second["pid"], second["restarts"]) == (alive, 0)
        load.wait_for(20)
        load.stop()
        assert not load.failed_since(when), "there was another one"
        assert proxy.active()["id"] == 1
        proxy.assert_nothing_is_lost()


def test_a_backend_that_was_just_started_again_is_not_started_twice(tmp_path: Path) -> None:
    """Its record is that of the process before it."""
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port, keys='connect_timeout = "20s"')) as proxy:
        Order("spawned", "web").write(proxy.order)
        kill(*proxy.pids())
        proxy.wait_crash()
        proxy.start()
        assert fetch(port).startswith("v1 1 ")
        proxy.assert_nothing_is_lost()
        proxy.operate("swap", version="v2")
        proxy.assert_nothing_is_lost()


def test_a_worker_that_died_while_control_was_away_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Calm(port, 4) as load:
        dead, alive = proxy.workers()
        before = proxy.metrics()
        proxy.crash()
        when = kill(dead)
        load.wait_for(20)
        proxy.start()
        assert alive in proxy.workers()
        assert len(proxy.workers()) == 2
        assert serving(port, proxy.workers()) == 1
        load.wait_for(20)
        assert not load.failed_since(when)
        assert_never_less(before, proxy.metrics())
        proxy.operate("swap", version="v2")
        proxy.assert_nothing_is_lost()


def test_when_all_workers_died_with_control_the_same_backends_serve_again(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy:
        proxy.operate("swap", version="v2")
        before, workers = _view(proxy), proxy.workers()
        proxy.crash()
        for worker in workers:
            kill(worker)
        proxy.start()
        assert fetch(port).startswith("v2 2 ")
        assert _view(proxy)["services"] == before["services"]
        proxy.assert_nothing_is_lost()
        proxy.operate("swap", version="v1")


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy:
        hangs, lives = proxy.workers()
        proxy.crash()
        os.kill(hangs, signal.SIGSTOP)
        proxy.start()
        assert lives in proxy.workers()
        eventually(lambda: hangs not in proxy.workers() and len(proxy.workers()) == 2, what="it is replaced")
        eventually(lambda: not is_alive(hangs), what="and gone")
        assert "does not answer" in proxy.log_text()
        proxy.operate("swap", version="v2")
        assert serving(port, proxy.workers()) == 2
        proxy.assert_nothing_is_lost()


def test_without_the_state_file_what_serves_is_found_by_its_mark(tmp_path: Path) -> None:
    port = free_port()
    with (
        Mortal(tmp_path, TWO + configs.service(port, v1=configs.backend(replicas=2), v2=configs.backend())) as proxy,
        Calm(port, 4) as load,
    ):
        pids, workers = proxy.pids(), proxy.workers()
        for damage in ("lost", "garbled", "cut"):
            proxy.crash()
            file = proxy.state_dir / "state.json"
            if damage == "lost":
                file.unlink()
            else:
                text = file.read_text()
                file.write_text("}{" * 100 if damage == "garbled" else text[: len(text) // 2])
            proxy.start()
            assert (proxy.pids(), proxy.workers()) == (pids, workers), damage
            load.wait_for(20)
        load.stop()
        assert not load.errors
        proxy.assert_nothing_is_lost()
        assert proxy.operate("swap", version="v2")["generation"] == 2
        proxy.assert_nothing_is_lost()


def test_without_the_state_file_connections_of_a_draining_generation_are_not_cut(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Held(port) as held:
        held.ask()
        proxy.begin("swap", version="v2", deadline="60s")
        eventually(lambda: proxy.service()["state"] == "draining", what="it drains")
        proxy.crash()
        (proxy.state_dir / "state.json").unlink()
        proxy.start()
        assert fetch(port).startswith("v2 2 ")
        assert held.ask().startswith("v1 1 ")
        held.close()
        proxy.assert_nothing_is_lost()
        assert proxy.operate("swap", version="v3")["generation"] == 3


def test_without_the_state_file_an_address_elsewhere_is_served_on_and_no_number_is_used_twice(tmp_path: Path) -> None:
    port = free_port()
    elsewhere = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{elsewhere.getsockname()[1]}"
    config = TWO + configs.service(port, v1=f'address = "{address}"\n', v2=configs.backend())
    with elsewhere, Mortal(tmp_path, config) as proxy, Calm(port, 0):
        proxy.crash()
        (proxy.state_dir / "state.json").unlink()
        proxy.start()
        number = proxy.active()["id"]
        assert proxy.operate("swap", version="v2")["generation"] == number + 1
        assert number > 1 or len(proxy.service()["generations"]) == 1


def test_sockets_in_the_file_system_stay_where_they_are(tmp_path: Path) -> None:
    public = tmp_path / "public.sock"
    versions = {name: configs.backend(at="--socket={socket}") for name in ("v1", "v2")}
    config = TWO + configs.service(f"unix:{public}", **versions)
    with Mortal(tmp_path, config) as proxy, Held(path=public) as held:
        held.ask()
        before, inode = _view(proxy), public.stat().st_ino
        proxy.crash()
        with Held(path=public) as client:
            assert client.ask().startswith("v1 1 ")
        proxy.start()
        assert _view(proxy) == before
        assert public.stat().st_ino == inode
        assert held.ask().startswith("v1 1 ")
        held.close()
        proxy.operate("swap", version="v2")
        with Held(path=public) as client:
            assert client.ask().startswith("v2 2 ")
        proxy.assert_nothing_is_lost()
        proxy.ok("stop")
        assert not public.exists()
        assert not [*proxy.state_dir.glob("sockets/*")]


def test_services_and_listeners_that_came_and_went_in_the_config_meanwhile(tmp_path: Path) -> None:
    web, old, extra, other, added = (free_port() for _ in range(5))
    keep = configs.service([f"127.0.0.1:{web}", f"127.0.0.1:{old}"])
    with Mortal(tmp_path, TWO + keep + configs.service(other, name="other")) as proxy, ExitStack() as stack:
        load = stack.enter_context(Calm(web, 4))
        moved = stack.enter_context(Held(old))
        leaving = stack.enter_context(Held(other))
        moved.ask()
        leaving.ask()
        (pid,) = proxy.pids()
        proxy.crash()
        keep = configs.service([f"127.0.0.1:{web}", f"127.0.0.1:{extra}"])
        proxy.write(TWO + keep + configs.service(added, name="added"))
        proxy.start()
        proxy.wait_reload()
        load.wait_for(20)
        assert proxy.pids() == [pid]
        assert fetch(extra).startswith("v1 1 ")
        assert fetch(added).startswith("v1 1 ")
        assert moved.ask().startswith("v1 1 ")
        assert leaving.ask().startswith("v1 1 "), "a service that is removed drains"
        eventually(lambda: _refused(old) and _refused(other), within=3, what="the listeners are closed")
        leaving.close()
        eventually(lambda: "other" not in proxy.status()["services"], what="the service is gone")
        load.stop()
        assert not load.errors
        proxy.assert_nothing_is_lost()
        moved.close()
        proxy.operate("swap", version="v2")


def test_an_active_that_was_edited_meanwhile_is_swapped_to(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Calm(port, 4) as load:
        proxy.crash()
        proxy.write(TWO + configs.service(port, active="v3"))
        proxy.start()
        (entry,) = eventually(lambda: proxy.history("web"), what="the swap")
        assert (entry["kind"], entry["from"], entry["to"], entry["result"]) == ("swap", "v1", "v3", "swapped")
        load.wait_for(20)
        load.stop()
        assert not load.errors
        assert {answer.generation for answer in load.answers} == {1, 2}
        proxy.assert_nothing_is_lost()


def test_a_recipe_that_was_edited_meanwhile_waits_for_the_next_start(tmp_path: Path) -> None:
    port = free_port()
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy:
        pids = proxy.pids()
        proxy.crash()
        proxy.write(TWO + configs.service(port, v1=configs.backend("--say=new"), v2=configs.backend()))
        proxy.start()
        proxy.wait_reload()
        assert proxy.pids() == pids
        proxy.operate("restart")
        assert (proxy.state_dir / "output/web/v1/2.0.log").read_text() == "new\n"


def test_a_version_that_came_with_its_command_is_known_on(tmp_path: Path) -> None:
    port = free_port()
    script = Path(configs.__file__).with_name("backend.py")
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy, Calm(port, 4) as load:
        proxy.operate("swap", version="hot", command=[sys.executable, "-I", "-S", str(script), "--port={port}"])
        before = _view(proxy)
        proxy.crash()
        proxy.start()
        assert _view(proxy) == before
        proxy.operate("swap", version="v1")
        assert proxy.operate("rollback")["to"] == "hot"
        load.stop()
        assert not load.errors


@contextmanager
def _benchmark(port: int) -> Iterator[subprocess.Popen[bytes]]:
    program = need("redis-benchmark", package="redis-tools")
    with subprocess.Popen(
        [program, "-p", str(port), "-c", "10", "-n", "20000", "-t", "set,get", "-q", "-l"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _view(proxy: Mortal) -> dict[str, Any]:
    """What of status and history is to outlive control."""
    status = proxy.status()
    services = status["services"]
    for service in services.values():
        for generation in service["generations"]:
            del generation["connections"], generation["in_flight"]
    return {
        "workers": [worker["pid"] for worker in status["proxy"]["workers"]],
        "restarts": status["proxy"]["worker_restarts"],
        "services": services,
        "history": {name: proxy.history(name) for name in services},
    }


def _has_ended(client: Held) -> bool:
    try:
        client.ask()
    except (OSError, ValueError):
        return True
    return False


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False
