"""The worker process: `python -P -m proxy.relay --fd N`.

N is a listening Unix SOCK_SEQPACKET socket, on which control connects.
"""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import signal
import socket
from pathlib import Path

import trio

from proxy import logs
from proxy.relay.access_log import AccessLog
from proxy.relay.worker import SIGNALS, Worker

log = logging.getLogger(__name__)

RESERVE = 64  # descriptors for everything that is not a connection: listeners, epoll, the link, standard streams


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proxy.relay", description="a proxyctl worker; started by control")
    parser.add_argument("--fd", type=int, required=True, help="a listening Unix SOCK_SEQPACKET socket")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--access-log", type=Path, help="append a line for each request to this file")
    arguments = parser.parse_args()
    logs.configure(arguments.log_format)
    listener = socket.socket(fileno=arguments.fd)
    for number in SIGNALS:
        # Before the worker can heed them, and after it has heeded the last one.
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(listener, _capacity(_raise_limit()), _access_log(arguments.access_log))
    gc.freeze()  # what was imported lives as long as the process: not worth a look in each collection
    gc.set_threshold(10_000)  # nothing on the hot path makes circles, so looking for them can be rare
    trio.run(worker.run)


def _access_log(path: Path | None) -> AccessLog | None:
    """Open the access log, if there is to be one. Connections come before it: without one they are served too."""
    if path is None:
        return None
    access_log = AccessLog(path)
    try:
        access_log.open()
    except OSError as error:
        log.error("the access log cannot be opened", extra=logs.facts(path=path, error=error.strerror))
        return None
    return access_log


def _raise_limit() -> int:
    """Raise the soft limit on descriptors to the hard one, and return it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _capacity(limit: int) -> int:
    """How many connections fit: each has two descriptors."""
    return max(1, (limit - RESERVE) // 2)


if __name__ == "__main__":
    main()
