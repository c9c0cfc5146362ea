"""The file that lets counters outlive the control process."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from proxy import wire
from proxy.control import files
from proxy.control.counters import CountersFile
from proxy.control.traffic import Traffic
from proxy.control.trouble import Troubles
from proxy.metrics import Metrics, Sample, ServiceSample


class Control:
    """What of a control process counts."""

    def __init__(self, folder, **options):
        self.traffic = Traffic()
        self.metrics = Metrics(self.sample)
        self.troubles = Troubles()
        path = folder / "counters.json"
        self.file = CountersFile(path, self.metrics, self.traffic, troubles=self.troubles, **options)

    @property
    def trouble(self):
        return self.troubles.message("counters")

    def sample(self):
        services = [ServiceSample("web", 1, self.traffic.of("web"), protocol="http")]
        return Sample(services, {0: True}, self.traffic.restarts)

    def page(self):
        return self.metrics.render(openmetrics=False)[0].decode()

    def work(self, connections=3):
        generation = wire.GenerationCounts(connections=connections, active=1, requests={"200": connections})
        generation.duration.counts[0], generation.duration.sum = connections, 0.1 * connections
        self.metrics.service("web")
        self.metrics.started("web", "v1", 1)
        self.metrics.checked("web", "v1", "ok")
        self.metrics.phase("web", "start", 0.1)
        self.traffic.join("worker", "7:70")
        self.traffic.record("worker", wire.Counts("web", 0, {"no_backend": 1}, {1: generation}))
        return self


def count_writes(monkeypatch):
    written = []
    replace = files.replace

    def counting(path, data, *, sync):
        written.append(data)
        replace(path, data, sync=sync)

    monkeypatch.setattr(files, "replace", counting)
    return written


async def test_what_was_shown_is_shown_by_the_next_process(tmp_path):
    before = Control(tmp_path).work()
    page = before.page()
    await before.file.shown()
    after = Control(tmp_path)
    assert after.file.load({"7:70"})
    assert after.page() == page
    assert os.stat(after.file.path).st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["counters.json"]


async def test_the_counts_of_a_worker_that_died_with_control_stay(tmp_path):
    before = Control(tmp_path).work()
    await before.file.shown()
    after = Control(tmp_path)
    assert after.file.load(set())
    assert "proxy_connections_total{" in after.page()
    assert after.page().replace("} 0.0", "} 1.0") == before.page().replace("} 0.0", "} 1.0")
    assert after.traffic.of("web").generations[1].active == 0


async def test_crash_after_crash_nothing_is_lost_and_nothing_doubled(tmp_path):
    page = Control(tmp_path).work().page()
    control = Control(tmp_path).work()
    for _ in range(5):
        await control.file.shown()
        control = Control(tmp_path)
        assert control.file.load({"7:70"})
    control.traffic.join("worker again", "7:70")
    assert control.page() == page


async def test_a_scrape_of_what_was_shown_before_writes_nothing(tmp_path, monkeypatch):
    written = count_writes(monkeypatch)
    control = Control(tmp_path).work()
    await control.file.shown()
    await control.file.shown()
    control.work()  # the worker says the same again
    await control.file.shown()
    await control.file.shown()
    assert len(written) == 2


async def test_what_changes_while_the_file_is_written_is_not_taken_for_written(tmp_path, monkeypatch):
    control = Control(tmp_path).work()
    replace, go_on = files.replace, threading.Event()

    def held_up(path, data, *, sync):
        go_on.wait(10)
        replace(path, data, sync=sync)

    monkeypatch.setattr(files, "replace", held_up)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.file.shown)
        await trio.testing.wait_all_tasks_blocked()
        control.metrics.swapped("web", "swapped")
        go_on.set()
        await control.file.shown()
    after = Control(tmp_path)
    assert after.file.load({"7:70"})
    assert swaps(after.page()) == 1


async def test_scrapes_at_the_same_time_are_all_covered(tmp_path):
    control = Control(tmp_path).work()
    covered = []

    async def scrape(number):
        control.metrics.swapped("web", "swapped")
        shown = control.page()
        await control.file.shown()
        after = Control(tmp_path)
        assert after.file.load({"7:70"})
        assert swaps(after.page()) >= swaps(shown)
        covered.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(scrape, number)
    assert len(covered) == 20


def swaps(page):
    return next(
        each.value
        for family in text_string_to_metric_families(page)
        for each in family.samples
        if each.name == "proxy_swaps_total" and each.labels["result"] == "swapped"
    )


async def test_changes_are_written_unasked_but_not_more_often_than_the_interval(tmp_path, monkeypatch):
    written = count_writes(monkeypatch)
    control = Control(tmp_path, interval=0.05)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.file.run)
        await trio.testing.wait_all_tasks_blocked()
        assert not written
        began = trio.current_time()
        while len(written) < 5:
            control.metrics.checked("web", "v1", "ok")
            await trio.sleep(0.001)
        assert trio.current_time() - began >= 4 * 0.05
        await control.file.shown()
        nursery.cancel_scope.cancel()
    assert json.loads(written[-1])["metrics"] == control.metrics.save()


async def test_nothing_is_written_while_nothing_changes(tmp_path, monkeypatch):
    written = count_writes(monkeypatch)
    control = Control(tmp_path, interval=0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.file.run)
        control.metrics.checked("web", "v1", "ok")
        await control.file.shown()
        await trio.sleep(0.1)
        assert len(written) == 1
        assert not control.file._changed.is_set()  # nor does anything look whether something does
        nursery.cancel_scope.cancel()


async def test_a_file_that_takes_long_to_write_is_written_less_often(tmp_path, monkeypatch):
    began = []

    def slow(path, data, *, sync):
        began.append(time.monotonic())
        time.sleep(0.02)

    monkeypatch.setattr(files, "replace", slow)
    control = Control(tmp_path, interval=0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.file.run)
        while len(began) < 2:
            control.metrics.checked("web", "v1", "ok")
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert began[1] - began[0] >= 20 * 0.02


async def test_a_scraper_that_hangs_up_leaves_a_whole_file(tmp_path):
    control = Control(tmp_path).work()
    with trio.CancelScope() as scope:
        scope.cancel()
        await control.file.shown()
    await control.file.shown()
    assert Control(tmp_path).file.load({"7:70"})


@pytest.fixture
def garbled(tmp_path):
    """Load a file with such content; whether it was used, and what the next process shows."""

    def load(content):
        path = tmp_path / "counters.json"
        path.write_bytes(content)
        path.chmod(0o600)
        control = Control(tmp_path)
        used = control.file.load({"7:70"})
        return used, control.page()

    return load


EMPTY = [b"", b"{", b"\xff\x00", b"[]", b"1", b"{}", b'{"format": 1}', b'{"format": []}', b"[" * 100_000, b"\x00" * 500]
EMPTY += [b'{"format": 1, "boot": 1, "metrics": {}, "traffic": {}}', b'{"format": 1, "boot": "", "metrics": 1}']


@pytest.mark.parametrize("content", EMPTY, ids=lambda content: repr(content[:40]))
def test_what_is_no_file_of_counters_is_said_once_and_ignored(garbled, tmp_path, caplog, content):
    used, page = garbled(content)
    assert not used
    assert page == Control(tmp_path).page()
    assert caplog.text.count("cannot be used") == 1


async def test_a_file_that_is_cut_off_anywhere_is_ignored(garbled, tmp_path, caplog):
    control = Control(tmp_path).work()
    await control.file.shown()
    whole = control.file.path.read_bytes()
    fresh = Control(tmp_path / "nothing").page()
    for length in range(0, len(whole), 7):
        assert garbled(whole[:length]) == (False, fresh)
    assert garbled(whole) == (True, control.page())


async def altered(tmp_path, **values):
    control = Control(tmp_path).work()
    await control.file.shown()
    return json.dumps({**json.loads(control.file.path.read_bytes()), **values}).encode()


async def test_a_later_format_is_not_guessed_at(garbled, tmp_path, caplog):
    used, page = garbled(await altered(tmp_path, format=2))
    assert not used
    assert page == Control(tmp_path).page()
    assert caplog.records[-1].facts["reason"] == "format 2, this release reads 1"


async def test_after_a_reboot_everything_begins_at_zero(garbled, tmp_path, caplog):
    caplog.set_level("INFO")
    used, page = garbled(await altered(tmp_path, boot="another"))
    assert not used
    assert page == Control(tmp_path).page()
    assert "started anew" in caplog.text


@pytest.mark.parametrize("damaged", ["metrics", "traffic"])
async def test_damage_in_one_half_does_not_cost_the_other(garbled, tmp_path, caplog, damaged):
    used, page = garbled(await altered(tmp_path, **{damaged: {"restarts": "x"}}))
    assert not used
    assert caplog.text.count("cannot be used") == 1
    assert ('proxy_connections_total{generation="1"' in page) == (damaged == "metrics")
    assert ("proxy_health_checks_total{" in page) == (damaged == "traffic")


async def test_values_nested_too_deeply_are_ignored(garbled, tmp_path):
    deep = await altered(tmp_path, traffic={"restarts": "?", "gone": {}, "workers": {}})
    for depth in (50, 500, *range(800, 1000)):  # within reach of the interpreter's limit, here or there
        assert not garbled(deep.replace(b'"?"', b"[" * depth + b"]" * depth))[0]


def test_a_first_start_says_nothing(tmp_path, caplog):
    assert not Control(tmp_path).file.load(set())
    assert not caplog.text


async def test_a_file_of_somebody_else_is_not_trusted(tmp_path, caplog):
    before = Control(tmp_path).work()
    await before.file.shown()
    before.file.path.chmod(0o666)
    assert not Control(tmp_path).file.load(set())
    assert caplog.text.count("cannot be used") == 1


async def test_a_folder_that_vanished_is_said_once_and_its_return_too(tmp_path, caplog):
    folder = tmp_path / "state"
    control = Control(folder).work()
    await control.file.shown()
    await control.file.shown()
    assert caplog.text.count("trouble.py") == 1
    assert control.trouble
    folder.mkdir()
    await control.file.shown()
    assert not control.trouble
    assert Control(folder).file.load(set())


async def test_a_full_disk_leaves_the_file_as_it_was_and_is_tried_again(tmp_path, monkeypatch, caplog):
    control = Control(tmp_path).work()
    await control.file.shown()
    old = control.file.path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        control.metrics.swapped("web", "swapped")
        await control.file.shown()
        await control.file.shown()
    assert control.trouble.endswith("No space left on device")
    assert caplog.text.count("trouble.py") == 1
    assert control.file.path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["counters.json"]
    await control.file.shown()
    assert not control.trouble
    assert control.file.path.read_bytes() != old


async def test_after_a_clean_stop_the_next_start_is_a_new_one(tmp_path, caplog):
    control = Control(tmp_path).work()
    await control.file.shown()
    control.file.discard()
    control.file.discard()
    assert not list(tmp_path.iterdir())
    assert not Control(tmp_path).file.load(set())
    assert not caplog.text


async def test_a_file_that_cannot_be_removed_is_said(tmp_path, caplog):
    control = Control(tmp_path)
    control.file.path.mkdir()
    control.file.discard()
    assert control.trouble
    assert "trouble.py" in caplog.text


KILLED = """
import sys, trio
from pathlib import Path
sys.path.insert(0, {root!r})
from proxy.control.counters import CountersFile
from proxy.control.traffic import Traffic
from proxy.control.trouble import Troubles
from proxy.metrics import Metrics, Sample

async def main():
    traffic = Traffic()
    metrics = Metrics(lambda: Sample([], {{}}, 0))
    file = CountersFile(Path({folder!r}) / "counters.json", metrics, traffic)
    file.load(())
    while True:
        metrics.swapped("web", "swapped")
        page = metrics.render(openmetrics=False)[0].decode()
        await file.shown()
        print([line for line in page.splitlines() if line.startswith("proxy_swaps_total{{")][0].split()[-1], flush=True)

trio.run(main)
"""


def test_a_process_that_is_killed_at_any_instant_is_followed_by_one_that_shows_no_less(tmp_path):
    code = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    seen = 0.0
    for round_ in range(4):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            for _ in range(20 + 13 * round_):
                shown = float(process.stdout.readline())
                assert shown > seen
                seen = shown
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:  # what it had shown when the signal came
                seen = max(seen, float(line))
