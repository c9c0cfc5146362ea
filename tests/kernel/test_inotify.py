from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from proxy.kernel.inotify import FolderWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def append(folder: Path) -> None:
    with (folder / "1.0.log").open("a") as file:
        file.write("line\n")


def truncate(folder: Path) -> None:
    with (folder / "1.0.log").open("r+") as file:
        file.truncate(0)


@pytest.mark.parametrize(
    "change",
    [
        append,
        truncate,
        lambda folder: (folder / "2.0.log").touch(),
        lambda folder: (folder / "1.0.log").rename(folder / "1.0.log.1"),
        lambda folder: (folder / "1.0.log").unlink(),
    ],
    ids=["printed", "truncated", "created", "rotated", "removed"],
)
async def test_whoever_follows_the_output_sees(change: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "1.0.log").write_text("before\n")
    with FolderWatch(tmp_path) as watch, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.wait)
            await trio.testing.wait_all_tasks_blocked()
            change(tmp_path)


async def test_what_happens_between_two_waits_is_not_missed_and_seen_once(tmp_path: Path) -> None:
    with FolderWatch(tmp_path) as watch:
        for _ in range(3):
            append(tmp_path)
        with trio.fail_after(5):
            await watch.wait()
        with trio.move_on_after(0.01) as nothing_new:
            await watch.wait()
        assert nothing_new.cancelled_caught


async def test_a_folder_that_does_not_exist_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        FolderWatch(tmp_path / "missing")


async def test_closing_wakes_whoever_waits(tmp_path: Path) -> None:
    watch = FolderWatch(tmp_path)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await watch.wait()

        await trio.testing.wait_all_tasks_blocked()
        watch.close()
