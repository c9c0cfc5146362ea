"""Connections that pass the workers by: the kernel hands each new one to the active backend's own listening socket.

One program (proxy/kernel/sk_lookup.py) looks at each new connection of this network namespace. Its maps say which
addresses are whose, which generation is the active one, and which sockets that listens on. They are pinned, so that
the kernel goes on by them while no control process is there, and the next one finds them.

Every socket of a generation carries a mark (SO_MARK, socket(7)), which the connections accepted from it inherit: so the
kernel can tell which connections a generation still has, and close them, though no worker ever saw them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

import trio

from proxy import wire
from proxy.control import steerable, steered
from proxy.control.steer_table import SERVICES, SLOTS, SOCKETS_PER_SLOT, Slot, SteerTable
from proxy.control.steered import FAMILIES, Home, Open, Steered
from proxy.kernel import bpffs, capabilities, inet_diag, netns, sk_lookup, sock_diag
from proxy.kernel.capabilities import Capability
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from proxy.config.marks import Marks
    from proxy.control.generation import Generation
    from proxy.control.steerable import Found
    from proxy.control.steered import Json, Listener
    from proxy.control.traffic import Traffic
    from proxy.core.address import Address

log = logging.getLogger(__name__)

KERNEL = "kernel"  # who counts what is steered, beside the workers

# A client that has not answered after three repetitions of the kernel's SYN-ACK (1, 2 and 4 s) is not going to.
_HANDSHAKE = 7.0
# Seconds between two looks. Ends of connections come as events; half-open ones expire without, and queues run empty.
_REST, _LOOK_AGAIN = 0.05, 1.0
_SHORTEST, _LONGEST = 0.002, 0.25
_ROUNDS = 5  # of closing what is open: what was in the queue, or half-open, is seen a moment later
_SHARE = 0.05  # of the time may be spent on counting what a drain has left
_NEEDED = (Capability.BPF, Capability.NET_ADMIN)


class Steering:
    """All that the kernel does for this proxy. Without the right to, or on a kernel that cannot, it does nothing, and
    `why_not` says why.

    Methods that are not async only make system calls that return at once.
    """

    def __init__(self, state_dir: Path, marks: Marks, traffic: Traffic) -> None:
        digest = hashlib.sha256(str(state_dir).encode()).hexdigest()[:16]
        self._namespace = netns.of(None)
        # A folder's name cannot have a dot here; another release with other maps has other folders.
        self.folder = bpffs.pin_folder_root / f"{digest}-{self._namespace}-{sk_lookup.LAYOUT}"
        self.why_not = _why_not()
        self._marks = marks
        self._traffic = traffic
        self._table: SteerTable | None = None
        self._services: dict[str, Home] = {}
        self._steered: dict[tuple[str, int], Steered] = {}
        self._seen: dict[tuple[str, int], tuple[Collection[int], Collection[int]]] = {}  # ports, and who listens there
        self._arranging = trio.Lock()
        # Another proxy here may well use the same marks: two rarely begin with the same one.
        self._last_slot = int(digest, 16)
        self._complaint = ""

    # Beginning and end.

    def find(self) -> None:
        """Go on with what an earlier control process left in the kernel."""
        if not _is_folder(self.folder):
            return
        try:
            if self.why_not:  # nobody would bring up to date what the kernel goes by
                raise PermissionError(errno.EPERM, self.why_not)
            self._table = SteerTable.open(self.folder)
            self._read(self._table)
        except (OSError, ValueError) as error:
            log.error("what steers cannot be taken over; replacing it", extra=facts(reason=error, folder=self.folder))
            self.remove()

    def _read(self, table: SteerTable) -> None:
        homes: dict[int, tuple[str, Home]] = {}
        for number in range(SERVICES):
            entry = table.service(number)
            if entry.name:
                homes[number] = entry.name, Home(number, current=entry.current)
        for listener, number in table.addresses():
            if number in homes:
                _, home = homes[number]
                home.listeners.add(listener)
                home.at |= {listener[1:]}
        self._services = dict(homes.values())
        for number in range(1, SLOTS):
            slot = table.slot(number)
            if slot.generation and slot.service in homes:
                name, home = homes[slot.service]
                self._steered[name, slot.generation] = Steered(name, slot.generation, home, number, slot.mark)

    def remove(self) -> None:
        """Take everything out of the kernel: from here on connections go to the workers."""
        if self._table:
            self._table.close()
        self._table = None
        with contextlib.suppress(OSError), contextlib.closing(SteerTable.open(self.folder)) as table:
            table.detach()
        self._services.clear()
        self._steered.clear()
        self._seen.clear()
        try:
            bpffs.remove_folder(self.folder)
        except OSError as error:
            if _is_folder(self.folder):  # else we may not even look: none of it is ours
                log.error("what steers cannot be removed", extra=facts(reason=error, folder=self.folder))

    def remove_strangers(self, addresses: Collection[Address]) -> None:
        """Remove what proxies that are gone, with other state folders, left in the kernel.

        Where a proxy is there, at least its workers listen at each address that it steers. So it is gone where we could
        bind one of these `addresses`; or where nobody does, and none of its backends serves on without it.
        """
        ours = {(int(each.family), each.host, each.port) for each in addresses if not each.is_unix}
        root = bpffs.pin_folder_root
        try:
            folders = list(root.iterdir()) if _is_folder(root) else []
        except OSError:  # it is another's
            return
        for folder in folders:
            if folder != self.folder and f"-{self._namespace}-" in folder.name:
                try:
                    self._remove_stranger(folder, ours)
                except OSError as error:
                    log.warning("what another proxy left in the kernel stays", extra=facts(reason=error, folder=folder))

    def _remove_stranger(self, folder: Path, ours: Iterable[Listener]) -> None:
        try:
            table = SteerTable.open(folder)
        except OSError:  # without a program that goes by it, or about to be made, or removed
            return
        with contextlib.closing(table):
            theirs = {listener for listener, _ in table.addresses()}
            taken = any(_overlap(mine, other) for mine in ours for other in theirs)
            alone = theirs and not any(sock_diag.tcp_listeners(port) for _, _, port in theirs)
            if taken or (alone and not table.has_sockets()):
                log.warning("a proxy that is gone left what steers; removed it", extra=facts(folder=folder))
                table.detach()
                bpffs.remove_folder(folder)

    def forget_others(self, known: Collection[tuple[str, int]], services: Collection[str]) -> None:
        """Drop what was found of generations, and of services, that there are no more."""
        for service, generation in self._steered.keys() - set(known):
            self.forget(service, generation)
        for name in self._services.keys() - set(services):
            self.drop(name)

    # What services ask for.

    def take_up(self, service: str, addresses: Iterable[Address]) -> str:
        """Steer connections to exactly these addresses; returns why that cannot be, or nothing.

        To none at all, for now: see `switch`.
        """
        wanted = [each for each in addresses if not each.is_unix]
        if not wanted:
            return "every address it listens on is a Unix socket"
        table = self._open()
        if table is None:
            return self.why_not
        try:
            return self._point(table, service, wanted)
        except (OSError, ValueError) as error:
            self.drop(service)
            return f"the kernel cannot be told of its addresses: {error}"

    def _point(self, table: SteerTable, service: str, wanted: Iterable[Address]) -> str:
        known = self._services.get(service)
        if known is None:
            slot = _free(range(SERVICES), {each.slot for each in self._services.values()})
            if slot is None:
                return f"{SERVICES} services are steered already"
            table.set_service(slot, 0, service)
            known = self._services[service] = Home(slot)
        listeners = {(int(each.family), each.host, each.port) for each in wanted}
        known.at |= {listener[1:] for listener in listeners}
        for gone in known.listeners - listeners:
            table.leave_alone(gone)
            known.listeners.remove(gone)
        for new in listeners - known.listeners:
            table.point(new, known.slot)
            known.listeners.add(new)
        return ""

    def drop(self, service: str) -> None:
        """Steer nothing of a service any more; its connections stay as they are, and go on being counted."""
        known = self._services.get(service)
        if known is None or self._table is None:
            return
        self.switch(service, None)
        try:
            for listener in tuple(known.listeners):
                self._table.leave_alone(listener)
                known.listeners.remove(listener)
            self._release(service)
        except OSError as error:
            self._give_up(error)

    async def arrange(self, service: str, generation: Generation) -> str:
        """Get ready to send connections to the replicas that are in rotation, or stop sending to those that are not any
        more; returns why that cannot be, or nothing.

        A service has to be taken up before.
        """
        async with self._arranging:
            had_place = self.has(service, generation.id)
            try:
                return await self._arrange(service, generation)
            except OSError as error:
                if had_place:
                    self._empty(service, generation.id)
                else:
                    self.forget(service, generation.id)
                return f"the backend's sockets cannot be used: {error.strerror or error}"

    async def _arrange(self, service: str, generation: Generation) -> str:
        key = service, generation.id
        entry = self._steered.get(key)
        healthy = [replica.target for replica in generation.replicas if replica.healthy and replica.target]
        if entry is None and not healthy:
            return ""
        if reason := steerable.why_not(healthy):
            self._empty(*key)
            return reason
        backends = [target for target in healthy if isinstance(target, steerable.Backend)]
        ports = frozenset(each.address.port for each in backends)
        seen = ports, self._listening(ports)
        if entry and entry.serves and self._seen.get(key) == seen:
            return ""
        self._seen[key] = seen
        with steerable.closing(await trio.to_thread.run_sync(steerable.find, backends)) as found:
            if self._table is None or service not in self._services or generation.ended.is_set():
                return ""  # it is over
            if found.sockets and key not in self._steered and not self._place(*key):
                return "all marks are in use: `[steering] marks` can have more"
            if key in self._steered:
                self._fill(self._steered[key], found.sockets)
            return "" if found.sockets or not healthy else found.why_not

    def has_moved(self, service: str, generation: int) -> bool:
        """Whether sockets were opened or closed, since they were looked for, where the generation listens."""
        ports, listeners = self._seen.get((service, generation), ((), ()))
        try:
            return bool(ports) and self._listening(ports) != listeners
        except OSError as error:
            self._complain("it cannot be told who listens", error)
            return False

    def switch(self, service: str, generation: int | None) -> None:
        """From now on new connections go to that generation, if it was arranged; to None, to the workers. One step."""
        known = self._services.get(service)
        if known is None or self._table is None:
            return
        entry = self._steered.get((service, generation or 0))
        slot = entry.slot if entry else 0
        if slot == known.current:
            return
        known.current = slot
        try:
            self._table.set_service(known.slot, slot, service)
        except OSError as error:
            self._give_up(error)

    def has(self, service: str, generation: int) -> bool:
        """Whether connections were, or are, steered to it."""
        return (service, generation) in self._steered

    def forget(self, service: str, generation: int) -> None:
        """Drop a generation that has no connections any more; what was counted stays with `traffic`."""
        self._seen.pop((service, generation), None)
        entry = self._steered.get((service, generation))
        if entry is None or self._table is None:
            return
        if entry.home.current == entry.slot:
            self.switch(service, None)
        del self._steered[service, generation]
        try:
            self._count(entry, 0)
            self._fill(entry, [])
            self._table.clear_slot(entry.slot)
            self._release(service)
        except OSError as error:
            self._give_up(error)

    # Connections.

    async def look(self, service: str, generation: int) -> Open:
        """Count what is open of a generation. Where the kernel does not tell: what was counted last."""
        entry = self._steered.get((service, generation))
        if entry is None:
            return Open()
        try:
            entry.open = (await trio.to_thread.run_sync(steered.counted, [entry]))[entry.mark]
        except OSError as error:
            self._complain("connections cannot be counted", error)
        return entry.open

    async def drained(self, service: str, generation: int, progress: Callable[[int], None]) -> None:
        """Wait until the kernel has no connection of a generation; `progress` is told each change on the way.

        A handshake that was under way at the switch is waited for as well, as long as it may still come to something.
        """
        entry = self._steered.get((service, generation))
        if entry is None:
            return
        began, last, pause = trio.current_time(), -1, _REST
        with steered.ends(entry.home) as one_has_ended:
            while True:
                clock = trio.current_time()
                found = await self.look(service, generation)
                took = trio.current_time() - clock
                if found.live != last:
                    last, pause = found.live, _REST
                    progress(found.live)
                hopeful = found.half_open and trio.current_time() < began + _HANDSHAKE
                if not found.live and not hopeful:
                    return
                # Many that end at once are counted once; and those of the next generation end all the time.
                await trio.sleep(max(_REST, took / _SHARE))
                with trio.move_on_after(pause):
                    await one_has_ended()
                pause = min(2 * pause, _LOOK_AGAIN)

    async def settled(self, service: str, generation: int) -> None:
        """Wait until each connection that came to a generation was accepted by it, and none is on the way: before that
        a listener that closes would reset them.
        """
        began, pause = trio.current_time(), _SHORTEST
        while True:
            found = await self.look(service, generation)
            if not found.waiting and not (found.half_open and trio.current_time() < began + _HANDSHAKE):
                return
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST)

    async def close(self, service: str, generation: int) -> int:
        """Close what a generation still has open (SOCK_DESTROY, as `ss -K` does); returns how many that were."""
        entry = self._steered.get((service, generation))
        if entry is None:
            return 0
        closed, left = 0, entry.open.live
        try:
            for _ in range(_ROUNDS):
                found = await trio.to_thread.run_sync(steered.connections, entry)
                live = [each for each in found if each.is_live]
                if not found:
                    break
                left = len(live)
                await trio.to_thread.run_sync(inet_diag.destroy, [each for each in found if each.is_half_open])
                closed += await trio.to_thread.run_sync(inet_diag.destroy, live)
        except OSError as error:
            extra = facts(service=service, generation=generation, reason=error.strerror, connections=left)
            log.error("connections cannot be closed; they end with the backend", extra=extra)
            return closed + left
        return closed

    async def refresh(self) -> None:
        """Bring `traffic` up to date."""
        if not self._steered:
            return
        entries = list(self._steered.values())
        try:
            found = await trio.to_thread.run_sync(steered.counted, entries)
            for entry in entries:
                if self._steered.get((entry.service, entry.generation)) is entry:
                    entry.open = found[entry.mark]
                    self._count(entry, entry.open.live)
                    entry.details = await trio.to_thread.run_sync(steered.look_closely, entry)
        except OSError as error:
            self._complain("connections cannot be counted", error)

    def details(self, service: str, generation: int) -> Json | None:
        """Of the connections that a generation which is not the active one still has, as of the last `refresh`: how
        many bytes they have `received_bytes` and `sent_bytes`, and for how many seconds the one that moved last
        (`least_idle`), and the one that rests the longest (`most_idle`), have moved nothing.
        """
        entry = self._steered.get((service, generation))
        return entry.details if entry else None

    # Inside.

    def _open(self) -> SteerTable | None:
        """Put the program in place, once something is to be steered."""
        if self._table is None and not self.why_not:
            self.why_not = steerable.mounted()
            try:
                self._table = None if self.why_not else SteerTable.make(self.folder)
            except OSError as error:
                self.why_not = steerable.explain(error)
        return None if self.why_not else self._table

    def _give_up(self, error: OSError) -> None:
        """What the program goes by cannot be changed any more: without it, workers get every connection. What there is
        goes on being counted.
        """
        if self.why_not:
            return
        self.why_not = f"the kernel's maps cannot be changed: {error}"
        log.error("steering is given up; connections are relayed", extra=facts(reason=error))
        try:
            if self._table:
                self._table.detach()
        except OSError as further:
            log.error("the program that steers cannot be removed", extra=facts(reason=further, folder=self.folder))

    def _place(self, service: str, generation: int) -> Steered | None:
        """A free place, with its mark: the one that has been free for longest."""
        assert self._table is not None  # noqa: S101 - the service was taken up
        count = min(self._marks.count, SLOTS - 1)
        slots = (1 + (self._last_slot + offset) % count for offset in range(count))
        first, there = self._marks.first - 1, self._steered.values()
        # Those that were found may be of another range.
        taken = {each.slot for each in there} | {each.mark - first for each in there}
        slot = _free(slots, taken)
        if slot is None:
            return None
        self._last_slot = slot
        self._table.clear_slot(slot)
        entry = Steered(service, generation, self._services[service], slot, first + slot)
        self._steered[service, generation] = entry
        return entry

    def _fill(self, entry: Steered, found: Sequence[Found]) -> None:
        """Let the sockets of a generation be these. At each moment on the way every position that is looked at has one
        of them, or one that was there before.
        """
        assert self._table is not None  # noqa: S101 - it has a place
        for each in found:
            each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, entry.mark)
        before, after = entry.sockets, dict[int, list[int]]()
        for family in FAMILIES:
            fitting = {each.inode: each for each in found if family in each.families}
            stay = [inode for inode in before[family] if inode in fitting]
            after[family] = (stay + [inode for inode in fitting if inode not in stay])[:SOCKETS_PER_SLOT]
            for position, inode in enumerate(after[family]):
                if before[family][position : position + 1] != [inode]:
                    self._table.put_socket(entry.slot, family, position, fitting[inode].sock.fileno())
        self._write(entry, after)
        for family in FAMILIES:
            for position in range(len(after[family]), len(before[family])):
                self._table.drop_socket(entry.slot, family, position)

    def _empty(self, service: str, generation: int) -> None:
        """Send nothing to a generation, whatever state its sockets are in."""
        if entry := self._steered.get((service, generation)):
            self._seen.pop((service, generation), None)
            try:
                self._write(entry, {family: [] for family in FAMILIES})
            except OSError as error:
                self._give_up(error)

    def _write(self, entry: Steered, sockets: dict[int, list[int]]) -> None:
        assert self._table is not None  # noqa: S101 - as above
        count4, count6 = (len(sockets[family]) for family in FAMILIES)
        self._table.set_slot(entry.slot, Slot(count4, count6, entry.home.slot, entry.generation, entry.mark))
        entry.sockets = sockets

    def _release(self, service: str) -> None:
        """Make room for another service, where nothing of this one is left."""
        known = self._services.get(service)
        if self._table and known and not known.listeners and not any(self._of(service)):
            self._table.set_service(known.slot, 0, "")
            del self._services[service]

    def _listening(self, ports: Iterable[int]) -> frozenset[int]:
        return frozenset(each.inode for port in ports for each in sock_diag.tcp_listeners(port))

    def _of(self, service: str) -> Iterator[Steered]:
        return (each for each in self._steered.values() if each.service == service)

    def _count(self, entry: Steered, live: int) -> None:
        assert self._table is not None  # noqa: S101 - it has a place
        counts = self._table.counts(entry.slot)
        counted = wire.GenerationCounts(
            active=live, connections=counts.steered, steered=counts.steered, fallen_through=counts.fallen
        )
        self._traffic.record(KERNEL, wire.Counts(entry.service, 0, {}, {entry.generation: counted}))

    def _complain(self, what: str, error: OSError) -> None:
        """Once, though it is tried again and again."""
        if self._complaint != (complaint := f"{what}: {error}"):
            self._complaint = complaint
            log.error(what, extra=facts(reason=error.strerror or error))


def _why_not() -> str:
    """What is missing that can be told without trying. More rights than to load a program are needed: without
    CAP_NET_ADMIN, connections can neither be told apart nor be closed.
    """
    if lacking := capabilities.missing(_NEEDED):
        return f"this process may not steer: it lacks {' and '.join(each.title for each in lacking)}"
    return ""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:  # /sys/fs/bpf is root's
        return False


def _free(places: Iterable[int], taken: Collection[int]) -> int | None:
    return next((each for each in places if each not in taken), None)


def _overlap(one: tuple[int, str, int], other: tuple[int, str, int]) -> bool:
    if (one[0], one[2]) != (other[0], other[2]):
        return False
    hosts = [ipaddress.ip_address(each[1]) for each in (one, other)]
    return hosts[0] == hosts[1] or any(each.is_unspecified for each in hosts)
