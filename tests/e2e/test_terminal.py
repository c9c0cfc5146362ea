"""`proxyctl` as people see it: `status --watch` and `swap` on real terminals of several sizes, and elsewhere."""

from __future__ import annotations

import contextlib
import re
import signal
from math import inf
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Proxy, free_port, held
from tests.e2e.shared import shared_by
from tests.screens import SIZES, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from tests.e2e.shared import Shared

CHECKED = 'type = "http"\npath = "/health"\ninterval = "100ms"\nstart_timeout = "10m"'
PATIENT = 'deadline = "10m"'


def waiting(name: str) -> dict[str, str]:
    """A service whose v2 is not healthy while the file `name` is there, and whose drains last."""
    v2 = configs.backend(f"--sick={name}")
    return {"health": CHECKED, "drain": PATIENT, "v1": configs.backend(), "v2": v2}


SWAPPED = {size: f"s{size[0]}" for size in SIZES}
shared = shared_by(
    watched=waiting("watched"),
    **{name: waiting(name) for name in SWAPPED.values()},
    resized={"drain": PATIENT},
    left={"drain": PATIENT},
    plain={},
    dumb={},
    grey={"drain": PATIENT},
    failing={"v1": configs.backend(), "v2": configs.backend("--say=\x1b[2J\x1b[31m日本語\x07", "--exit=3")},
)


def on(proxy: Proxy, *arguments: str, size: tuple[int, int] = (80, 24), **environment: str) -> Terminal:
    columns, rows = size
    return Terminal(*arguments, columns=columns, rows=rows, PROXYCTL_SOCKET=str(proxy.socket), **environment)


def watch(proxy: Proxy, size: tuple[int, int] = (80, 24), **environment: str) -> Terminal:
    return on(proxy, "status", "--watch", "--service", proxy.default, size=size, **environment)


def swap(proxy: Proxy, size: tuple[int, int] = (80, 24), **environment: str) -> Terminal:
    return on(proxy, "swap", "v2", "--service", proxy.default, size=size, **environment)


@contextlib.contextmanager
def sick(proxy: Proxy) -> Iterator[None]:
    """v2 does not get healthy meanwhile."""
    file = proxy.folder / proxy.default
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def countdown(window: Terminal, remaining: int, initial: int, *, below: float = inf) -> int:
    """Wait until so many connections are left, and less time than that; return the seconds that are left."""
    wanted = re.compile(rf"\b{remaining}(?: of {initial}(?: left\D*|, )|/{initial}, )(\d+)m(\d+)s")

    def left(screen: str) -> int | None:
        found = wanted.search(screen)
        seconds = int(found[1]) * 60 + int(found[2]) if found else inf
        return int(seconds) if seconds < below else None

    seconds: int = window.until(left, what=f"{remaining} of {initial}, in less than {below} s")
    return seconds


def counts_down(windows: list[Terminal], remaining: int, initial: int) -> None:
    """Wait until all of them have less time left, though nothing has happened but that time has passed."""
    left = [countdown(window, remaining, initial) for window in windows]
    for window, seconds in zip(windows, left, strict=True):
        countdown(window, remaining, initial, below=seconds)


def words(screen: str) -> list[str]:
    """All that does not change with the time."""
    return re.sub(r"\d+(ms|[smhd])?", "N", screen).replace("NN", "N").split()


def test_a_drain_can_be_watched_in_every_window(shared: Shared) -> None:
    proxy, port = shared("watched")
    with contextlib.ExitStack() as stack:
        windows = [stack.enter_context(watch(proxy, size)) for size in SIZES]
        clients = stack.enter_context(held(port, 4))
        for window in windows:
            window.shows("watched serving v1")
        with sick(proxy):
            proxy.begin("swap", version="v2")
            for window in windows:
                window.shows("watched swapping v1", "v2", "starting", "swap v1 -> v2:", "health, for")
            for window in windows[1:]:
                window.shows("✓ start ", "> health ", "· switch")
        counts_down(windows, 4, 4)
        for window in windows:
            window.shows("watched draining v2", "v1", "draining", "░")
            assert "█" not in "\n".join(window.lines)
        clients[0].close()
        for window in windows:
            countdown(window, 3, 4)
            window.shows("█")
        for window in windows[1:]:
            window.shows("✓ switch ", "> drain ")
        for client in clients:
            client.close()
        for size, window in zip(SIZES, windows, strict=True):
            window.until(lambda screen: "watched serving v2" in screen and "last: " in screen)
            once = stack.enter_context(on(proxy, "status", "--service", "watched", size=size))
            assert once.end() == 0
            expected = words("\n".join(once.lines))
            window.until(
                lambda screen, expected=expected: words(screen) == expected, what=f"{expected} and nothing else"
            )
            assert window.screen.overlong == once.screen.overlong == 0


def test_a_swap_shows_its_phases_in_every_window(shared: Shared) -> None:
    with contextlib.ExitStack() as stack:
        proxies = [shared(name) for name in SWAPPED.values()]
        clients = [stack.enter_context(held(port, 2)) for _, port in proxies]
        with contextlib.ExitStack() as unhealthy:
            for proxy, _ in proxies:
                unhealthy.enter_context(sick(proxy))
            windows = [stack.enter_context(swap(proxy, size)) for size, (proxy, _) in zip(SIZES, proxies, strict=True)]
            for window, name in zip(windows, SWAPPED.values(), strict=True):
                window.shows(f"swap {name}: v1 -> v2", "✓ start", "> health", "· switch", "· drain", "· stop")
        counts_down(windows, 2, 2)
        for window, (first, second) in zip(windows, clients, strict=True):
            first.close()
            countdown(window, 1, 2)
            window.shows("✓ health", "✓ switch", "> drain", "█", "░")
            second.close()
        for window in windows:
            assert window.end() == 0
            told = "\n".join(window.lines)
            assert [told.count(f"✓ {name}") for name in ("start", "health", "switch", "drain", "stop")] == [1] * 5
            assert "v2 serves" in told
            assert "█" not in told
            assert window.screen.overlong == 0
            assert window.is_left_clean()


def test_a_window_that_is_resized_shows_one_picture_that_fits(shared: Shared) -> None:
    proxy, port = shared("resized")
    with held(port, 2) as clients, swap(proxy, (120, 40)) as swapping, watch(proxy, (120, 40)) as watching:
        for window in (swapping, watching):
            for size in ((40, 15), (20, 10), (80, 24)):
                countdown(window, 2, 2)
                window.resize(*size)
                forms = {20: "2/2, ", 40: "2 of 2 left, closed in ", 80: "2 of 2 left to drain, closed in "}
                window.shows(forms[size[0]])
        assert [line.split()[1] for line in swapping.lines] == [
            "resized:",
            "start",
            "health",
            "switch",
            "drain",
            "stop",
        ]
        with on(proxy, "status", "--service", "resized") as once:
            assert once.end() == 0
            expected = words("\n".join(once.lines))
        # The phases are known to who has watched them, and not to the status.
        watching.until(lambda screen: words(screen)[: len(expected)] == expected)
        for client in clients:
            client.close()
        assert swapping.end() == 0
        assert swapping.lines[-1].startswith("resized: v2 serves")


def test_ctrl_c_leaves_the_picture_and_a_clean_line(shared: Shared) -> None:
    proxy, port = shared("left")
    with held(port, 1), swap(proxy) as swapping, watch(proxy) as watching:
        for window in (swapping, watching):
            countdown(window, 1, 1)
            window.interrupt()
        assert (swapping.end(), watching.end()) == (130, 0)
        for window in (swapping, watching):
            assert window.is_left_clean()
            told = "\n".join(window.lines)
            assert "^C" not in told
            assert "1 of 1 left to drain" in told
        assert "proxyctl: detached; the swap goes on" in swapping.lines


def silence(window: Terminal, *, above: int = -1) -> int:
    """Wait until the screen says that no proxy answers, for longer than that; return for how many seconds."""

    def told(screen: str) -> int | None:
        found = re.match(r"no answer for (\d+)s; this is what was seen last:\n", screen)
        return int(found[1]) + 1 if found and int(found[1]) > above else None

    return int(window.until(told, what="no answer")) - 1


def test_a_proxy_that_goes_away_and_comes_back_is_told_of_above_what_was_seen_last(tmp_path: Path) -> None:
    with Proxy(tmp_path, configs.service(free_port())) as proxy, watch(proxy, (60, 15)) as window:
        window.shows("web serving v1")
        assert proxy.process
        proxy.process.kill()
        proxy.process.wait()
        since = silence(window)
        window.shows("web serving v1", "no proxy answers on")
        before = window.lines[1:]
        silence(window, above=since)
        assert window.lines[1:] == before
        proxy.start()
        window.until(lambda screen: screen.startswith("proxy ") and "web serving v1" in screen)
        assert "no proxy answers" not in "\n".join(window.lines)
        proxy.process.send_signal(signal.SIGSTOP)
        silence(window)
        window.until(lambda screen: "did not answer within 3 seconds" in " ".join(screen.split()))
        window.shows("web serving v1")
        proxy.process.send_signal(signal.SIGCONT)
        window.until(lambda screen: screen.startswith("proxy ") and "web serving v1" in screen)
        assert window.screen.overlong == 0


def test_a_window_that_is_too_low_says_how_much_is_not_shown(shared: Shared) -> None:
    with on(shared.proxy, "status", "--watch", size=(40, 10)) as window:
        window.until(lambda screen: re.search(r"\n… \d+ more lines, in a taller window$", screen))
        assert len(window.lines) == 9
        assert window.screen.overlong == 0


COLORS = re.compile(rb"\x1b\[[\d;]*m")


def test_with_no_color_it_is_drawn_in_place_without_colours(shared: Shared) -> None:
    proxy, port = shared("grey")
    with held(port, 1) as clients, watch(proxy, NO_COLOR="1") as watching, swap(proxy, NO_COLOR="1") as swapping:
        counts_down([watching, swapping], 1, 1)
        for client in clients:
            client.close()
        assert swapping.end() == 0
        assert swapping.lines[0] == "swap grey: v1 -> v2"
        for window in (watching, swapping):
            assert b"\x1b[?25l" in window.raw
            assert not COLORS.search(window.raw)


def test_a_dumb_terminal_gets_lines_and_nothing_else(shared: Shared) -> None:
    proxy, _ = shared("dumb")
    with watch(proxy, TERM="dumb") as watching:
        watching.shows("dumb serving v1")
        with swap(proxy, TERM="dumb") as swapping:
            assert swapping.end() == 0
        watching.shows("dumb serving v2")
        assert b"\x1b" not in watching.raw + swapping.raw


def test_no_escape_sequence_reaches_a_pipe_whatever_the_environment_asks_for(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = shared("plain")
    for name, value in {"CLICOLOR_FORCE": "1", "FORCE_COLOR": "3", "TERM": "xterm-256color", "COLUMNS": "20"}.items():
        monkeypatch.setenv(name, value)
    watching = proxy.popen("status", "--watch", "--service", "plain")
    assert watching.stdout
    told = watching.stdout.readline()
    done = [proxy.ctl(*arguments) for arguments in (
        ("swap", "v2", "--service", "plain"),
        ("swap", "v1", "--json", "--service", "plain"),
        ("swap", "v1", "--service", "plain"),
        ("status",),
        ("history", "--service", "plain"),
    )]  # fmt: skip
    watching.terminate()
    told += watching.communicate(timeout=10)[0]
    assert [each.returncode for each in done] == [0, 0, 1, 0, 0]
    assert "plain serving v2" in told
    assert "\x1b" not in told + "".join(each.stdout + each.stderr for each in done)
    assert max(map(len, told.splitlines())) > 20  # nothing is cut, or folded, for who reads it later


def test_what_a_backend_prints_is_shown_and_not_obeyed(shared: Shared) -> None:
    proxy, _ = shared("failing")
    with swap(proxy, (60, 24)) as window:
        assert window.end() == 1
        told = "\n".join(window.lines)
        assert window.lines[0] == "swap failing: v1 -> v2"
        assert "exited with status 3" in told
        assert r"\x1b[2J\x1b[31m日本語\x07" in told
        assert b"\x07" not in window.raw
    with on(proxy, "status", "--service", "failing", size=(40, 15)) as once:
        assert once.end() == 0
        assert "last: swap v1 -> v2 failed" in "\n".join(once.lines)
        assert "exited with status 3" in " ".join("\n".join(once.lines).split())
        assert once.screen.overlong == 0
