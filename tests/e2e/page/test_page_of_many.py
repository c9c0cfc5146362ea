"""Fifty services and two hundred generations: the page is still one that a person can work with."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import Events, Proxy, eventually, free_port
from tests.e2e.page.browsing import PHONE, save, violations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.page.browsing import Watched

SERVICES, GENERATIONS = 50, 4


class Many:
    """Services whose versions are all one server, so that there are no hundreds of processes; each generation but the
    last one of a service drains, since a client stays with it.
    """

    def __init__(self, folder: Path) -> None:
        self.backend = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.clients: list[socket.socket] = []
        self._is_over = threading.Event()
        self._server = threading.Thread(target=self._serve)
        self._server.start()
        self.admin = free_port()
        self.ports = {f"service-{number:02d}": free_port() for number in range(SERVICES)}
        address = f'address = "127.0.0.1:{self.backend.getsockname()[1]}"\n'
        config = "".join(
            f'[services.{name}]\nlisten = "127.0.0.1:{port}"\nactive = "v1"\n'
            f'[services.{name}.health]\ntype = "tcp"\ninterval = "60s"\n[services.{name}.drain]\ndeadline = "10m"\n'
            + "".join(f"[services.{name}.versions.v{number}]\n{address}" for number in range(1, GENERATIONS + 1))
            for name, port in self.ports.items()
        )
        self.proxy = Proxy(folder, config, admin=f'listen = "127.0.0.1:{self.admin}"')

    def _serve(self) -> None:
        """Greet whoever comes, and leave when they do."""
        with self.backend, selectors.DefaultSelector() as selector:
            selector.register(self.backend, selectors.EVENT_READ)
            while not self._is_over.is_set():
                for key, _ in selector.select(0.1):
                    if key.fileobj is self.backend:
                        connection, _ = self.backend.accept()
                        selector.register(connection, selectors.EVENT_READ)
                        with contextlib.suppress(OSError):  # a check has gone again
                            connection.sendall(b"!")
                    elif isinstance(key.fileobj, socket.socket) and not _received(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
            for key in list(selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()

    def grow(self) -> None:
        """Bring every service to its last generation, with a client on each."""
        with Events(self.proxy) as events, ThreadPoolExecutor(10) as pool:
            for version in range(1, GENERATIONS + 1):
                if version > 1:
                    swap = partial(self.proxy.begin, "swap", version=f"v{version}")
                    for each in list(pool.map(swap, self.ports)):
                        events.wait(operation=each["id"], phase="switch", state="end")
                for port in self.ports.values():
                    self.clients.append(socket.create_connection(("127.0.0.1", port)))
                    assert self.clients[-1].recv(1) == b"!"

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self._is_over.set()
        self._server.join()


def _received(connection: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return connection.recv(100)
    return b""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    many = Many(tmp_path_factory.mktemp("many"))
    try:
        with many.proxy:
            many.grow()
            yield many
    finally:
        many.close()


def test_fifty_services_are_found_opened_and_followed(many: Many, watched: Watched) -> None:
    page = watched.open(f"http://127.0.0.1:{many.admin}/")
    page.get_by_role("article", name="service-49").wait_for()
    assert page.get_by_role("article").count() == SERVICES
    page.get_by_text(f"{SERVICES} of {SERVICES} services").wait_for()
    assert page.locator(".generation").count() == SERVICES * GENERATIONS  # all drain, so all are unfolded
    save(page, "page-many", full=False)
    page.get_by_label("Find a service").fill("service-4")
    page.get_by_text(f"10 of {SERVICES} services").wait_for()
    assert page.get_by_role("article").count() == 10
    fold = page.get_by_role("article", name="service-41").get_by_role("button", name="service-41", exact=True)
    fold.click()
    assert fold.get_attribute("aria-expanded") == "false"
    page.get_by_label("Find a service").fill("service-42")
    card = page.get_by_role("article", name="service-42")
    card.get_by_text("1 of 1 connections left").first.wait_for()
    many.clients[42].close()
    eventually(lambda: card.locator(".generation").count() == GENERATIONS - 1, what="a generation is gone")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_it_is_for_everybody_on_a_phone_too(many: Many, watched: Watched) -> None:
    page = watched.open(f"http://127.0.0.1:{many.admin}/", viewport=PHONE)
    page.get_by_label("Find a service").fill("service-1")
    page.get_by_text(f"10 of {SERVICES} services").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert violations(page) == []


def test_a_second_in_which_nothing_happens_touches_the_ages_and_nothing_else(many: Many, watched: Watched) -> None:
    """What is drawn anew for no reason is work for the browser, and takes the selection away from who reads."""
    page = watched.open(f"http://127.0.0.1:{many.admin}/")
    page.get_by_role("article", name="service-49").wait_for()
    page.get_by_text("live", exact=True).wait_for()
    touched = page.evaluate(
        """async () => {
            const seen = {text: 0, other: []};
            const name = (node) => `${node.localName}.${node.getAttribute?.("class")}`;
            new MutationObserver((records) => {
                for (const {type, target, attributeName} of records) {
                    if (type === "characterData") seen.text += 1;
                    else if (!target.closest("svg, .chart")) seen.other.push([type, name(target), attributeName]);
                }
            }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
            await new Promise((done) => setTimeout(done, 3500));
            return seen;
        }"""
    )
    assert touched["text"] > SERVICES
    assert touched["other"] == []
