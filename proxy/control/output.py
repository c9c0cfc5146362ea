"""What backends print, kept in files: `state_dir/output/SERVICE/VERSION/GENERATION.REPLICA.log`.

Files and not pipes, so that a backend never blocks on, or dies with, the control process. A file that has grown is
copied to `….log.1` and emptied in place: the backend goes on writing to the descriptor it has (O_APPEND), and needs
not know. What it prints between the last byte copied and the truncation is lost, as with logrotate's copytruncate.

A disk that is full or read-only keeps no backend from starting: it then prints to nowhere until it is started again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import trio

from proxy.control import disk
from proxy.control.trouble import Troubles
from proxy.kernel import fallocate

MAX_SIZE = 10 * 1024 * 1024  # bytes; a replica keeps up to twice that
KEEP_GENERATIONS = 10
_LOOK_EVERY = 5.0  # seconds. A backend that prints 100 MB/s overshoots by half a gigabyte, and then no more
_TAIL_SIZE = 64 * 1024
_MAX_LINE = 2000
_FIRST_WORDS = 4096  # bytes that a process can print for certain, once its file could be opened
_NOTE = b"(proxyctl: the disk is well again; what started before prints to nowhere until `proxyctl restart`)\n"
_ROTATION = "rotation"


def safe_name(name: str) -> str:
    """A file name for any service or version: what could leave the folder, or hide, is percent-encoded."""
    quoted = quote(name, safe=" @+=,:~")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def root(state_dir: Path) -> Path:
    return state_dir / "output"


def folder(state_dir: Path, service: str, version: str) -> Path:
    """Where the files of a version are; it may not exist yet."""
    return root(state_dir) / safe_name(service) / safe_name(version)


def path(state_dir: Path, service: str, version: str, generation: int, replica: int) -> Path:
    return folder(state_dir, service, version) / f"{generation}.{replica}.log"


class LogFile:
    """The file of one process. A replica that is started again goes on where the one before stopped."""

    def __init__(self, path: Path, troubles: Troubles | None = None) -> None:
        self.path = path
        self._troubles = troubles or Troubles()
        self._start = 0

    def open(self) -> int:
        """Return a descriptor for the process to write to: of the file, or where that cannot be, of /dev/null."""
        try:
            descriptor = self._open()
        except OSError as error:
            self._report(error)
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._troubles.clear("output", str(self.path))
        return descriptor

    def _open(self) -> int:
        descriptor = _open(self.path)
        try:
            self._start = os.fstat(descriptor).st_size
            # The lock belongs to what was opened, so the process has it as long as it keeps its stdout (flock(2)).
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):
            prune(self.path.parent.parent)
        return descriptor

    def _report(self, error: OSError) -> None:
        self._start = size(self.path)  # so that `tail` does not take what was printed before for this process's
        what = "/".join(self.path.parts[-3:])
        text = f"what a backend prints is not kept (output/{what}): {disk.reason(error)}"
        hint = "; then `proxyctl restart`: it prints to nowhere until it is started again"
        self._troubles.set("output", text, disk.hint(error, self.path.parent) + hint, about=str(self.path))

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last lines that this process printed."""
        return tail(self.path, lines, since=self._start)


def files(version_folder: Path) -> list[Path]:
    """The files of a version, oldest first: by generation, then replica, a rotated one before its successor."""
    found = [(number, file) for file in _listed(version_folder) if (number := _number(file))]
    return [file for _, file in sorted(found)]


def tail(file: Path, lines: int, *, since: int = 0) -> tuple[str, ...]:
    """The last lines that were printed, at most 64 KiB of them.

    What comes before byte `since` is left out, until the file is rotated; then the rotated one is looked into as well.
    """
    was_rotated = size(file) < since
    found = _last_lines(file, 0 if was_rotated else since)
    if len(found) < lines and (was_rotated or not since):
        found = _last_lines(_rotated(file), since) + found
    return tuple(found[-lines:]) if lines > 0 else ()


def size(file: Path) -> int:
    """In bytes; 0 when there is no such file."""
    try:
        return file.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def rotate(file: Path, max_size: int = MAX_SIZE) -> bool:
    """Move the content to `….log.1` once it is over `max_size` bytes; return whether it was.

    Raises OSError; then the content stands. On a full disk, the rotated one before and all but the end of it is given
    up: it would grow for ever otherwise.
    """
    try:
        source = file.open("r+b")
    except FileNotFoundError:
        return False
    with source:
        if size(file) <= max_size:
            return False
        try:
            _copy_aside(source, file)
        except OSError as error:
            if error.errno not in disk.FULL:
                raise
            _rotated(file).unlink(missing_ok=True)
            source.seek(-min(_TAIL_SIZE, size(file)), os.SEEK_END)
            _copy_aside(source, file)
        source.truncate(0)
    return True


def _copy_aside(source: BinaryIO, file: Path) -> None:
    """Copy what is left to read of `source`, which is `file`, to its `….log.1`."""
    aside = file.with_name(file.name + ".1.new")
    try:
        with aside.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        aside.replace(_rotated(file))
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def prune(service_folder: Path, keep: int = KEEP_GENERATIONS) -> None:
    """Remove what all but the newest `keep` generations of a service printed; what still runs keeps its files."""
    try:
        numbered = [(number, file) for file in service_folder.glob("*/*") if (number := _number(file))]
    except OSError:  # a folder went while it was looked through: the next start prunes
        return
    newest = sorted({number[0] for number, _ in numbered})[-keep:]
    for number, file in numbered:
        if number[0] not in newest and not _in_use(file.with_name(f"{number[0]}.{number[1]}.log")):
            file.unlink(missing_ok=True)
    for folder_ in {file.parent for _, file in numbered}:
        with contextlib.suppress(OSError):  # not empty, and that is most of them
            folder_.rmdir()


async def keep_rotated(
    state_dir: Path, max_size: int = MAX_SIZE, every: float = _LOOK_EVERY, troubles: Troubles | None = None
) -> None:
    """Rotate every file that has grown too big, for ever. Run it as a task of the control process.

    It looks from time to time instead of being woken: a busy backend would wake it for every line.
    """
    troubles = troubles or Troubles()
    while True:
        failed = await trio.to_thread.run_sync(_rotate_all, state_dir, max_size)
        if failed:
            _report_rotation(troubles, *failed)
        else:
            troubles.clear("output", _ROTATION)
        for lost in troubles.about("output"):
            if lost != _ROTATION and await trio.to_thread.run_sync(_is_possible_again, Path(lost)):
                troubles.clear("output", lost)
        await trio.sleep(every)


def _rotate_all(state_dir: Path, max_size: int) -> tuple[Path, OSError] | None:
    """Return the first file that could not be rotated, and why."""
    try:
        found = list(root(state_dir).glob("*/*/*.log"))
    except OSError:  # a folder went while it was looked through: next time, then
        return None
    failed = None
    for file in found:
        try:
            rotate(file, max_size)
        except OSError as error:
            failed = failed or (file, error)
    return failed


def _report_rotation(troubles: Troubles, file: Path, error: OSError) -> None:
    text = f"output file {file} has grown too big and cannot be rotated: {disk.reason(error)}"
    troubles.set("output", text, disk.hint(error, file.parent), about=_ROTATION)


def _open(file: Path) -> int:
    """Open it to append, and see to it that its first words find room. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        # On a full disk a file can be opened, but many programs die when they cannot print: better then to nowhere.
        fallocate.reserve(descriptor, _FIRST_WORDS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_possible_again(file: Path) -> bool:
    """Whether the file can be written by now; then it says what became of the output meanwhile."""
    try:
        descriptor = _open(file)
    except OSError:
        return False
    try:
        os.write(descriptor, _NOTE)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _rotated(file: Path) -> Path:
    return file.with_name(file.name + ".1")


def _listed(version_folder: Path) -> list[Path]:
    try:
        return list(version_folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _in_use(file: Path) -> bool:
    """Whether a process still holds the lock that `LogFile.open` took for it."""
    try:
        with file.open("rb") as source:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _number(file: Path) -> tuple[int, int, int] | None:
    """(generation, replica, 0 if rotated or 1) of `3.1.log` or `3.1.log.1`; None for any other file."""
    generation, _, rest = file.name.partition(".")
    replica, _, suffix = rest.partition(".")
    if generation.isdecimal() and replica.isdecimal() and suffix in {"log", "log.1"}:
        return int(generation), int(replica), int(suffix == "log")
    return None


def _last_lines(file: Path, since: int) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), file.open("rb") as source:
        start = source.seek(max(since, source.seek(0, os.SEEK_END) - _TAIL_SIZE))
        text = source.read(_TAIL_SIZE).decode(errors="replace")
        lines = [line[:_MAX_LINE] for line in text.splitlines()]
        return lines[1:] if start > since and len(lines) > 1 else lines  # the first one is cut
    return []
