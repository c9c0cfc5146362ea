"""Where somebody comes from, as far as that tells one from another."""

from __future__ import annotations

import ipaddress

_CUSTOMER = 64  # bits of an IPv6 address: one customer of a provider has all that follow


def site_of(address: str) -> str:
    """What counts as one: an IPv4 address, also where IPv6 stands for it, or a network of IPv6. Empty for this machine
    itself.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return ""
    return str(ipaddress.ip_network((ip, _CUSTOMER), strict=False)) if ip.version == 6 else str(ip)
