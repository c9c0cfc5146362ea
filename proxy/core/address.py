"""Addresses as users write them: `host:port`, `[v6]:port` and `unix:/path`."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

SockAddr = tuple[str, int] | tuple[str, int, int, int] | str

_LOCALHOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address (`host` and `port`) or a Unix socket (`path`).

    `host` is an IP literal, or a name where names are allowed (external backends).
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    @property
    def is_literal(self) -> bool:
        """Whether no name look-up is needed to use it."""
        if self.path:
            return True
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def is_loopback(self) -> bool:
        return self.is_unix or (self.is_literal and ipaddress.ip_address(self.host).is_loopback)

    @property
    def family(self) -> socket.AddressFamily:
        if self.path:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def sockaddr(self) -> SockAddr:
        """What `bind` and `connect` take for `family`."""
        return self.path or (self.host, self.port)

    @classmethod
    def parse(cls, text: str, *, names: bool = False) -> Address:
        """Parse an address; `names` allows host names beside IP literals and `localhost`.

        Raises ValueError with a sentence that says what is wrong and how it should look.
        """
        if text.startswith("unix:"):
            return cls(path=_unix_path(text.removeprefix("unix:")))
        if text.startswith("/"):
            raise ValueError(f'a Unix socket is written "unix:{text}"')
        host, colon, port = text.rpartition(":")
        if not colon:
            example = f"127.0.0.1:{text}" if text.isdigit() else f"{text}:8080"
            raise ValueError(f'expected "host:port", for example "{example}"')
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host:
                raise ValueError("only IPv6 addresses are written in brackets")
        elif ":" in host:
            raise ValueError(f'an IPv6 address is written in brackets: "[{host}]:{port}"')
        if not host:
            raise ValueError(f'the host is missing; "0.0.0.0:{port}" means every IPv4 address of this machine')
        if not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError(f'"{port}" is not a port (0 to 65535)')
        return cls(host=_host(host, names=names), port=int(port))


def _unix_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError('a Unix socket needs an absolute path: "unix:/run/app.sock"')
    if "\0" in path or len(path.encode()) > 107:
        raise ValueError("a Unix socket's path has at most 107 bytes (unix(7))")
    return path


def _host(host: str, *, names: bool) -> str:
    if host == "localhost":
        return _LOCALHOST
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if names and all(part and part.replace("-", "").replace("_", "").isalnum() for part in host.split(".")):
            return host
        kind = "an IP address or host name" if names else "an IP address"
        raise ValueError(f'"{host}" is not {kind}') from None
