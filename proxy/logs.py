"""Logging: one line per event on standard error, as text for people or as JSON for machines.

Events carry their facts as keyword values, never folded into the sentence:

    log.info("backend exited", extra=facts(service="web", pid=12, status=3))
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

Format = Literal["text", "json"]


def facts(**values: Any) -> dict[str, Any]:
    """Wrap the facts of an event for `extra=`; None values are left out."""
    return {"facts": {name: value for name, value in values.items() if value is not None}}


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        words = [f"{when}.{int(record.msecs):03d}", f"{record.levelname.lower():<7}", record.getMessage()]
        for name, value in getattr(record, "facts", {}).items():
            text = str(value)
            # What a terminal would obey, or take for another line, may have come from anybody.
            is_plain = text and text.isprintable() and not any(c in text for c in ' "=')
            words.append(f"{name}={text if is_plain else json.dumps(text)}")
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def configure(style: Format = "text", *, level: int = logging.INFO) -> None:
    """Send every event of this process to standard error in the given style."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for chatty in ("hypercorn.access", "hypercorn.error"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
