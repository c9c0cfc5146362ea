"""urllib3: one thread with a pool of one connection for each client. See loop.py."""

from __future__ import annotations

import threading
import time
from urllib.parse import urlsplit

import loop
import urllib3


def run(number: int) -> None:
    pool = urllib3.connection_from_url(loop.url, maxsize=1, block=True, timeout=30)
    for method, url, identity, wait in loop.work(number):
        time.sleep(wait)
        try:
            body = loop.BODY if identity else None
            answer = pool.urlopen(method, urlsplit(url).path, body=body, retries=False)
        except urllib3.exceptions.HTTPError as error:
            loop.tally.failed(error)
        else:
            loop.tally.check(identity, answer.status, answer.data)
    loop.tally.connections += pool.num_connections
    pool.close()


threads = [threading.Thread(target=run, args=(number,)) for number in range(loop.clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
loop.tally.print()
