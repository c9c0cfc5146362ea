import subprocess
import sys

import pytest

from proxy.control import listeners
from proxy.control.listeners import BindError
from proxy.core.address import Address
from proxy.errors import AddressInUseError

_HOLDER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as taken:
    print(taken.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def test_a_taken_port_names_who_has_it():
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        port = int(holder.stdout.readline())
        with pytest.raises(AddressInUseError) as caught:
            listeners.bind(Address(host="0.0.0.0", port=port))
        assert f"pid {holder.pid} ({sys.executable} -c" in caught.value.message
        holder.communicate("")


def test_ipv4_and_ipv6_wildcards_of_one_port_stand_side_by_side():
    with listeners.bind(Address(host="0.0.0.0", port=0)) as v4:
        port = v4.getsockname()[1]
        with listeners.bind(Address(host="::", port=port)):
            pass


def test_port_0_is_shown_as_what_the_kernel_chose():
    address = Address(host="127.0.0.1", port=0)
    with listeners.bind(address) as listener:
        assert listeners.bound_address(address, listener).port == listener.getsockname()[1]


def test_a_socket_file_that_a_crash_left_is_replaced(tmp_path):
    address = Address(path=str(tmp_path / "s"))
    listeners.bind(address).close()
    second = listeners.bind(address)
    listeners.close(address, second)
    assert not (tmp_path / "s").exists()


def test_a_living_socket_and_a_plain_file_are_left_alone(tmp_path):
    address = Address(path=str(tmp_path / "s"))
    with listeners.bind(address), pytest.raises(AddressInUseError):
        listeners.bind(address)
    (tmp_path / "f").write_text("precious")
    with pytest.raises(AddressInUseError):
        listeners.bind(Address(path=str(tmp_path / "f")))
    assert (tmp_path / "f").read_text() == "precious"


def test_an_address_this_machine_does_not_have_is_said_so():
    with pytest.raises(BindError, match="no such address"):
        listeners.bind(Address(host="192.0.2.1", port=1))


def test_a_socket_file_that_cannot_be_removed_is_said_and_the_listener_closed_all_the_same(tmp_path, caplog):
    address = Address(path=str(tmp_path / "s"))
    listener = listeners.bind(address)
    (tmp_path / "s").unlink()
    (tmp_path / "s").mkdir()
    listeners.close(address, listener)
    assert listener.fileno() == -1
    assert "socket file not removed" in caplog.text
