"""The bake time: a new version that falls over soon after the switch gives way to the old one by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Load, Proxy, fetch, free_port, is_alive, kill
from tests.e2e.shared import shared_by

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.shared import Shared

shared = shared_by(
    workers=2, dying={"drain": 'bake = "60s"'}, living={"drain": 'bake = "1s"'}, replaced={"drain": 'bake = "60s"'}
)


def test_a_version_that_dies_inside_the_bake_time_gives_way_and_no_connect_is_refused(shared: Shared) -> None:
    proxy, port = shared("dying")
    with Events(proxy) as events, Held(port) as held, Load(port) as load:
        held.ask()
        (old,) = proxy.pids()
        load.wait_for(20)
        number = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=number, phase="bake", state="begin")
        load.wait_for(20)
        (new,) = proxy.pids()
        dead = kill(new)
        result = events.wait(operation=number, type="result")["result"]
        load.wait_for(20)

        assert result["result"] == "rolled_back"
        assert "killed by SIGKILL" in result["error"]
        assert (result["from"], result["to"]) == ("v1", "v2")
        service = proxy.service()
        assert (service["state"], service["active"]) == ("serving", "v1")
        assert proxy.pids() == [old], "the old generation never stopped"
        assert held.ask().startswith("v1 1 "), "and its connections never noticed"
        assert not is_alive(new)
        assert proxy.metrics().get("proxy_swaps_total", service="dying", result="rolled_back") == 1
    # What had been given to the version that was killed is lost with it; whoever came later was served.
    assert not load.failed_since(dead)
    assert {answer.generation for answer in load.answers} == {1, 2}


def test_swap_says_on_the_command_line_that_it_was_rolled_back(tmp_path: Path) -> None:
    port, sick = free_port(), tmp_path / "sick"
    health = 'type = "http"\npath = "/health"\ninterval = "50ms"\nfall = 1'
    config = configs.service(
        port, health=health, drain='bake = "60s"', v1=configs.backend(), v2=configs.backend(f"--sick={sick}")
    )
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        client = proxy.popen("swap", "v2", "--json")
        events.wait(phase="bake", state="begin")
        sick.touch()
        out, err = client.communicate(timeout=30)
        assert client.returncode == 1
        assert '"result":"rolled_back"' in out.replace(" ", "").splitlines()[-1]
        assert "503" in err
        assert fetch(port).startswith("v1 1 ")


def test_a_version_that_lives_through_the_bake_time_stays_and_the_old_one_is_kept_until_then(shared: Shared) -> None:
    proxy, port = shared("living")
    with Events(proxy) as events:
        (old,) = proxy.pids()
        number = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=number, phase="bake", state="begin")
        assert is_alive(old)
        result = events.wait(operation=number, type="result")["result"]
        assert result["result"] == "swapped"
        assert not is_alive(old)
        assert fetch(port).startswith("v2 ")


def test_another_swap_inside_the_bake_time_goes_ahead(shared: Shared) -> None:
    proxy, port = shared("replaced")
    with Events(proxy) as events:
        first = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=first, phase="bake", state="begin")
        second = proxy.begin("swap", version="v3")["id"]
        result = events.wait(operation=first, type="result")["result"]
        assert result["result"] == "swapped", "it was replaced, not found wanting"
        events.wait(operation=second, phase="bake", state="begin")
        assert fetch(port).startswith("v3 ")
