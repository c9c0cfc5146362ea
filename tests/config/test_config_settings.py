"""The defaults are the contract: what is not written in a file must mean the same for ever."""

import typing
from pathlib import Path
from signal import Signals

import pytest
from pydantic import ValidationError

from proxy.config import Drain, Health, Service, Version
from proxy.config.settings import Admin
from proxy.core.address import Address


def test_settings_built_in_a_test_have_the_defaults_of_a_file() -> None:
    version = Version(name="v1", command=("./app",))
    service = Service(name="web", listen=(Address("127.0.0.1", 80),), active="v1", versions={"v1": version})

    assert (service.protocol, service.datapath, service.balance) == ("tcp", "relay", "least")
    assert (service.connect_timeout, service.idle_timeout, service.max_connections) == (5.0, 0.0, 0)
    assert service.http.model_dump() == {"forwarded": "append", "request_id": False, "header_timeout": 30.0}
    assert service.health.model_dump(exclude={"status"}) == {
        "type": "tcp",
        "path": "/",
        "command": (),
        "interval": 1.0,
        "timeout": 2.0,
        "rise": 1,
        "fall": 3,
        "start_timeout": 30.0,
        "owner": "self",
    }
    assert str(service.health.status) == "200-399"
    assert service.drain.model_dump() == {
        "deadline": 30.0,
        "stop_signal": Signals.SIGTERM,
        "stop_timeout": 10.0,
        "signal_at": None,
        "keep_warm": 0.0,
        "bake": 0.0,
    }
    assert Admin(socket=Path("/run/x.sock")).model_dump(exclude={"socket"}) == {
        "listen": "",
        "token_file": None,
        "tls_cert": None,
        "tls_key": None,
        "metrics": "open",
        "allow_commands": False,
    }
    assert (version.replicas, version.env, version.user, version.output, version.address) == (1, {}, "", "file", ())
    assert version.cwd == Path.cwd()


def test_settings_cannot_be_changed_behind_the_back_of_those_who_hold_them() -> None:
    with pytest.raises(ValidationError):
        Drain().deadline = 5  # type: ignore[misc]


def test_values_given_in_code_are_checked_like_those_of_a_file() -> None:
    with pytest.raises(ValidationError, match="not one of"):
        Health(type="htpp")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="not one of"):
        Admin(metrics="closed")  # type: ignore[arg-type]


def test_what_control_relies_on_is_typed() -> None:
    hints = typing.get_type_hints(Service)

    assert hints["listen"] == tuple[Address, ...]
    assert hints["versions"] == dict[str, Version]
