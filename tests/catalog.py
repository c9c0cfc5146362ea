"""Which series the proxy really has, for tests of what refers to them by name."""

from __future__ import annotations

import re

from proxy.metrics import Metrics, Sample

_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def series_names() -> set[str]:
    """Every name that can stand in a query."""
    page, _ = Metrics(lambda: Sample(services=(), workers={}, worker_restarts=0)).render(openmetrics=False)
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", page.decode(), re.MULTILINE)
    return {name + suffix for name, kind in kinds for suffix in _SUFFIXES.get(kind, ("",))}


def named_in(text: str) -> set[str]:
    """Every name in a text that looks like one of the proxy's series."""
    return set(re.findall(r"\bproxy_[a-z_]+", text))
