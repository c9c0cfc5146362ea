"""The config: TOML → validated settings, with the place of every error, and what changed for a reload.

`find` and `admin_socket` are quick; the names that need pydantic import it when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from proxy.config.paths import admin_socket, find

if TYPE_CHECKING:
    from proxy.config.adhoc import adhoc_version
    from proxy.config.loader import Examined, examine, examine_text, load
    from proxy.config.schema import json_schema
    from proxy.config.settings import Admin, Drain, Health, Http, Service, Settings, Steering, Version

__all__ = [
    "Admin",
    "Drain",
    "Examined",
    "Health",
    "Http",
    "Service",
    "Settings",
    "Steering",
    "Version",
    "adhoc_version",
    "admin_socket",
    "examine",
    "examine_text",
    "find",
    "json_schema",
    "load",
]

_HOMES = {
    "adhoc_version": "adhoc",
    **dict.fromkeys(("Examined", "examine", "examine_text", "load"), "loader"),
    "json_schema": "schema",
    **dict.fromkeys(("Admin", "Drain", "Health", "Http", "Service", "Settings", "Steering", "Version"), "settings"),
}


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
