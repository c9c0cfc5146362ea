"""Who asks over the control socket: that is looked up, and nothing waits for it."""

from __future__ import annotations

import os
import pwd
import time
from typing import TYPE_CHECKING, Any

from proxy.api import peer

if TYPE_CHECKING:
    import pytest
    import trio

    from tests.ask import Api
    from tests.fakes import FakeControl


async def test_a_process_is_named_with_its_user(api: Api, control: FakeControl) -> None:
    assert (await api.post("/v1/services/web/pause", {})).status == 200
    (caller,) = control.callers
    assert caller.right == pwd.getpwuid(os.geteuid()).pw_name
    assert caller.place.startswith(f"pid {os.getpid()} (")


async def test_a_user_directory_that_does_not_answer_holds_up_neither_the_proxy_nor_the_action(
    api: Api, control: FakeControl, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    def hang(_uid: int) -> Any:
        time.sleep(1)
        raise KeyError

    monkeypatch.setattr(peer, "LOOK_UP", 0.2)
    monkeypatch.setattr(pwd, "getpwuid", hang)
    began = time.monotonic()
    nursery.start_soon(api.post, "/v1/services/web/pause", {})
    assert (await api.get("/livez")).status == 200
    assert time.monotonic() - began < 0.2
    assert (await api.post("/v1/services/web/resume", {})).status == 200
    assert time.monotonic() - began < 0.9
    assert {caller.right for caller in control.callers} == {f"user {os.geteuid()}"}
