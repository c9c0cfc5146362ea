"""The worker process: `python -P -m proxy.relay --fd N`.

N is a listening Unix SOCK_SEQPACKET socket, on which control connects.
"""

from __future__ import annotations

import argparse
import gc
import resource
import signal
import socket

import trio

from proxy import logs
from proxy.relay.worker import SIGNALS, Worker

RESERVE = 64  # descriptors for everything that is not a connection: listeners, epoll, the link, standard streams


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proxy.relay", description="a proxyctl worker; started by control")
    parser.add_argument("--fd", type=int, required=True, help="a listening Unix SOCK_SEQPACKET socket")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    logs.configure(arguments.log_format)
    listener = socket.socket(fileno=arguments.fd)
    for number in SIGNALS:
        # Before the worker can heed them, and after it has heeded the last one.
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(listener, capacity=_capacity(_raise_limit()))
    gc.freeze()  # what was imported lives as long as the process: not worth a look in each collection
    trio.run(worker.run)


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
