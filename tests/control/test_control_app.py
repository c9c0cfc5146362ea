"""What the control process does with signals, before it has anything to do it with."""

import signal

import pytest
import trio

from proxy.config import examine
from proxy.control.app import App
from proxy.control.service import Service
from proxy.core.caller import NOBODY


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n[admin]\nsocket = "{tmp_path}/control.sock"\n'
        '[services.web]\nlisten = "127.0.0.1:0"\nactive = "v1"\nversions.v1.command = "unused"\n'
    )
    app = App(examine(path))
    app.services = {name: Service(settings, app.deps) for name, settings in app.settings.services.items()}
    return app


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2])
async def test_a_signal_that_comes_while_the_proxy_starts_does_not_end_it(app, nursery, caplog, number):
    app.nursery = nursery
    await nursery.start(app._obey_signals)
    signal.raise_signal(number)
    with trio.fail_after(5):
        while "still starting" not in caplog.text:
            await trio.sleep(0.001)
    nursery.cancel_scope.cancel()


async def test_the_first_signal_to_stop_never_cuts_short_what_was_told_to_stop_in_order(app, nursery):
    """A service manager sends it after it has run `proxyctl stop`."""
    app.nursery = nursery
    await nursery.start(app._obey_signals)
    app.stop(NOBODY)
    signal.raise_signal(signal.SIGTERM)
    await trio.testing.wait_all_tasks_blocked()
    assert not app._now.is_set()
    signal.raise_signal(signal.SIGTERM)
    with trio.fail_after(5):
        await app._now.wait()
    nursery.cancel_scope.cancel()
