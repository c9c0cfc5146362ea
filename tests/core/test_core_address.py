import contextlib
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.address import Address


@pytest.mark.parametrize(
    ("text", "family", "sockaddr"),
    [
        ("127.0.0.1:80", socket.AF_INET, ("127.0.0.1", 80)),
        ("localhost:80", socket.AF_INET, ("127.0.0.1", 80)),
        ("0.0.0.0:0", socket.AF_INET, ("0.0.0.0", 0)),
        ("[::1]:8080", socket.AF_INET6, ("::1", 8080)),
        ("unix:/run/app.sock", socket.AF_UNIX, "/run/app.sock"),
    ],
)
def test_every_form_a_user_may_write_is_understood(text, family, sockaddr):
    address = Address.parse(text)
    assert (address.family, address.sockaddr) == (family, sockaddr)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8080", '"127.0.0.1:8080"'),
        (":8080", '"0.0.0.0:8080"'),
        ("::1:80", "in brackets"),
        ("[1.2.3.4]:80", "only IPv6"),
        ("1.2.3.4:70000", "not a port"),
        ("1.2.3.4:http", "not a port"),
        ("1.2.3.4:٣", "not a port"),
        ("1.2.3:80", "not an IP address"),
        ("example.com:80", "not an IP address"),
        ("/run/app.sock", '"unix:/run/app.sock"'),
        ("unix:app.sock", "absolute"),
        ("unix:/" + "x" * 107, "107 bytes"),
    ],
)
def test_a_wrong_address_says_how_it_should_look(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Address.parse(text)


def test_host_names_are_for_external_backends_only():
    assert Address.parse("db-1.internal:5432", names=True) == Address(host="db-1.internal", port=5432)
    with pytest.raises(ValueError, match="host name"):
        Address.parse("not a name:1", names=True)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_what_is_printed_is_read_back(ip, port):
    address = Address(host=str(ip), port=port)
    assert Address.parse(str(address)) == address


@given(st.text())
def test_no_text_whatever_does_anything_but_parse_or_raise_value_error(text):
    with contextlib.suppress(ValueError):
        Address.parse(text, names=True)
