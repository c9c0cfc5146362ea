"""A disk that is full or read-only, and state that is damaged: traffic goes on, and it is said once and shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Load, Proxy, eventually, fetch, free_port, held, kill
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")

TALKATIVE = configs.backend("--say=hello", "--say=here I am")
VERSIONS = {"v1": TALKATIVE, "v2": TALKATIVE, "v3": TALKATIVE}
SIZE = 2 << 20  # bytes


class Disk:
    """A small disk for the state folder, that fills up and becomes read-only as the test likes."""

    reason: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mounted = 0
        self._mount("-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "proxyctl-test")

    def fail(self) -> None:
        raise NotImplementedError

    def recover(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for _ in range(self._mounted):
            subprocess.run([need("umount", package="mount"), "--lazy", self.folder], check=True)

    def _mount(self, *arguments: str) -> None:
        subprocess.run([need("mount", package="mount"), *arguments, self.folder], check=True)
        self._mounted += "remount" not in " ".join(arguments)


class FullDisk(Disk):
    reason = "No space left on device"

    def fail(self) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            _write_for_ever(file)

    def recover(self) -> None:
        (self.folder / "ballast").unlink()


class ReadOnlyDisk(Disk):
    """What is open for writing stays so, as after an error of a disk."""

    reason = "Read-only file system"

    def fail(self) -> None:
        self._mount("--bind", str(self.folder))
        self._mount("-o", "remount,bind,ro")

    def recover(self) -> None:
        self._mount("-o", "remount,bind,rw")


@pytest.fixture(params=[FullDisk, ReadOnlyDisk], ids=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = request.param(tmp_path / "state")
    yield disk
    disk.close()


def _write_for_ever(file: BinaryIO) -> None:
    while True:
        file.write(bytes(4096))


def troubles(proxy: Proxy) -> dict[str, str]:
    """What `status` says is wrong, by kind."""
    found: list[dict[str, Any]] = proxy.status()["proxy"]["trouble"]
    return {trouble["kind"]: trouble["message"] for trouble in found}


def said(proxy: Proxy, *words: str) -> int:
    """How many lines of the log have all these words."""
    return sum(all(word in line for word in words) for line in proxy.log.read_text().splitlines())


def crash(proxy: Proxy) -> None:
    """Kill the control process, and nothing else."""
    assert proxy.process
    proxy.process.send_signal(signal.SIGKILL)
    proxy.process.wait()


def entries(proxy: Proxy) -> list[int]:
    """The operations of the history file, by their numbers."""
    lines = (proxy.state_dir / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_while_the_disk_fails_swaps_work_and_no_client_notices_and_afterwards_nothing_is_missing(
    tmp_path: Path, disk: Disk
) -> None:
    port = free_port()
    with (
        Proxy(tmp_path, configs.service(port, **VERSIONS)) as proxy,
        Events(proxy) as events,
        Load(port, clients=4) as load,
    ):
        with held(port, 3) as clients:
            load.wait_for(20)
            disk.fail()
            proxy.begin("swap", version="v2")
            events.wait(type="phase", phase="switch", state="end")
            load.wait_for(20)
            assert [client.ask().split()[0] for client in clients] == ["v1"] * 3
        events.wait(type="result")
        proxy.operate("swap", version="v3")
        proxy.operate("swap", version="v2")
        load.wait_for(20)
        found = troubles(proxy)
        assert {"state", "history", "output"} <= found.keys()
        assert all(disk.reason in message for message in found.values())
        assert f"trouble: {found['state']}" in " ".join(proxy.ok("status").split())
        assert proxy.metrics().get("proxy_trouble", kind="state") == 1
        assert said(proxy, "kind=state", disk.reason) == 1
        assert said(proxy, "kind=history", disk.reason) == 1
        disk.recover()
        eventually(lambda: not troubles(proxy), what="the disk's recovery is noticed, though nothing happens")
        assert said(proxy, "trouble is over", "kind=state") == 1
        assert proxy.metrics().get("proxy_trouble", kind="state") == 0
        assert json.loads((proxy.state_dir / "state.json").read_bytes())["services"]["web"]["active"] == "v2"
        assert entries(proxy) == [1, 2, 3]
        assert not load.errors
        proxy.operate("restart")
        assert "here I am" in proxy.ok("logs", "v2")


def test_on_a_failing_disk_a_crashed_backend_is_started_again_and_a_killed_worker_is_replaced(
    tmp_path: Path, disk: Disk
) -> None:
    port = free_port()
    config = "workers = 2\n" + configs.service(port, keys='connect_timeout = "20s"', **VERSIONS)
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        (pid,) = proxy.pids()
        disk.fail()
        kill(pid)
        assert fetch(port).split()[3] != str(pid)

        before = proxy.workers()
        kill(before[0])
        events.wait(type="worker", state="died", pid=before[0])
        events.wait(type="worker", state="started")
        assert len(proxy.workers()) == 2
        proxy.operate("swap", version="v2", deadline=0)
        with Load(port) as load:
            load.wait_for(100)
        assert not load.errors
        assert {answer.version for answer in load.answers} == {"v2"}


def test_on_a_failing_disk_a_proxy_that_died_can_be_started_again(tmp_path: Path, disk: Disk) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port, **VERSIONS)) as proxy:
        disk.fail()
        crash(proxy)
        proxy.start()
        assert fetch(port).startswith("v1 ")
        proxy.operate("swap", version="v2")
        assert disk.reason in troubles(proxy)["state"]
        disk.recover()
        eventually(lambda: not troubles(proxy), what="the disk's recovery is noticed")


def test_a_folder_that_could_never_be_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    disk = ReadOnlyDisk(tmp_path / "state")
    try:
        disk.fail()
        with Proxy(tmp_path, configs.service(free_port()), wait=False) as proxy:
            assert proxy.process
            assert proxy.process.wait(20) == 1
            assert "Read-only file system" in proxy.log_text()
            assert "state_dir" in proxy.log_text()
        doctor = proxy.ctl("doctor")
        assert doctor.returncode == 1
        assert "read-only" in doctor.stdout
    finally:
        disk.close()


BROKEN: list[Callable[[bytes], bytes]] = [lambda whole: whole[: len(whole) // 2], lambda whole: os.urandom(len(whole))]


def test_a_proxy_that_died_and_whose_state_is_damaged_is_started_again_without_a_client_noticing(
    tmp_path: Path,
) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port, **VERSIONS)) as proxy, Load(port, clients=2) as load:
        proxy.operate("swap", version="v2")
        for number, damage in enumerate(BROKEN, 1):
            with held(port, 3) as clients:
                load.wait_for(20)
                crash(proxy)
                file = proxy.state_dir / "state.json"
                damaged = damage(file.read_bytes())
                file.write_bytes(damaged)
                load.wait_for(20)
                proxy.start()
                load.wait_for(20)
                assert [client.ask().split()[0] for client in clients] == ["v2"] * 3
            (aside,) = proxy.state_dir.glob("state.json.unreadable-*")
            assert aside.read_bytes() == damaged
            assert aside.name in troubles(proxy)["state"]
            assert said(proxy, "state file is unreadable") == number
            aside.unlink()
        proxy.operate("swap", version="v3")
        assert fetch(port).startswith("v3 ")
        assert not load.errors


@pytest.mark.parametrize(
    ("owner", "mode", "why"), [(12345, 0o600, "belongs to another user (12345)"), (0, 0o666, "other users may write")]
)
def test_what_another_user_may_have_written_decides_nothing(tmp_path: Path, owner: int, mode: int, why: str) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port, **VERSIONS)) as proxy:
        proxy.operate("swap", version="v2")
        proxy.ok("stop")
        proxy.kill()
        for name in ("state.json", "history.jsonl"):
            os.chown(proxy.state_dir / name, owner, owner)
            (proxy.state_dir / name).chmod(mode)
        proxy.start()
        assert fetch(port).startswith("v1 "), "as the config says, and not the file"
        found = troubles(proxy)
        assert why in found["state"]
        assert why in found["history"]
        assert len(list(proxy.state_dir.glob("*.unreadable-*"))) == 2
        proxy.operate("swap", version="v3")
        assert (proxy.state_dir / "state.json").stat().st_uid == 0


def test_a_clock_that_is_set_to_what_it_is_concerns_nobody(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Load(port, clients=2) as load:
        load.wait_for(20)
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
        except PermissionError:
            pytest.skip("needs CAP_SYS_TIME")
        load.wait_for(20)
        assert proxy.metrics().get("proxy_trouble", kind="clock") == 0
        assert not troubles(proxy)
        assert not load.errors
