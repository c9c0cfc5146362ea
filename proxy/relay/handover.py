"""Handing live connections from one worker to another.

The giver's story, told on a channel between the two; nothing blocks, and both serve everybody else meanwhile:

1. `hello`: versions. A taker that does not read the giver's refuses, and nothing has happened.
2. A *round*: connections are packed, those that were silent for longest first, and go over in batches of `parcels`. The
   taker checks and parks them: sockets that nobody reads.
3. `round` ends it. The taker answers `ready`, and names those it refuses. The giver takes these back.
4. `go`: the rest is the taker's. It says `taken`, and then makes them live. The giver closes its copies.
5. More rounds until nothing is left that the taker has not refused; then `done`.

A connection is in two processes for a while, but only one ever touches it. Until `taken` is on its way that is the
giver: should the taker die, the kernel closes the channel, and what was packed goes on where it was. From then on it is
the taker. Should the giver die in a round, what has come whole is the taker's, too: the dead do not touch anything. A
giver that gives up alive says `abort` first.

A taker that hangs may still wake up, so no timeout decides whose a connection is. A giver that has waited for PATIENCE
says `abort` all the same, as long as it has not said `go`: a taker that wakes up later reads that before it touches
anything. After `go` the giver waits on for `taken`, and ends with that round. Either way it accepts again: who comes is
not to wait for a worker that hangs.
"""

from __future__ import annotations

import _socket
import itertools
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from proxy.logs import facts
from proxy.relay import packing
from proxy.relay.channel import Batch, Channel
from proxy.relay.parcel import Parcel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from proxy.relay.acceptor import Gate
    from proxy.relay.channel import Frame
    from proxy.relay.engine import Engine
    from proxy.relay.service import Service

log = logging.getLogger(__name__)

VERSION = 1
READS = frozenset({1})  # the versions of givers whose parcels can be unpacked: those of this and the previous release
# Connections in a round. None is read from when it is packed until the round is over, and until then the old worker can
# take all of them back: so a round is as long as some tenths of a second allow, rather than as short as it could be.
ROUND = 4096
PATIENCE = 5.0  # seconds without a word of the taker, or without room for one to it
_SILENT = "the taker does not answer"


class Giver:
    """Gives every connection of a worker away. `ended(carried, error)` is called when it is over.

    Without an error nothing is left here then. Until then, and after that, nothing is accepted; after an error it is.
    """

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        services: Mapping[str, Service],
        gate: Gate,
        ended: Callable[[int, str], None],
    ) -> None:
        self._engine = engine
        self._services = services
        self._gate = gate
        self._ended = ended
        self._channel = Channel(engine, sock, self)
        self._queue: list[packing.Movable] = []  # the next one last
        self._parcels: list[Parcel] = []  # of this round; the taker's as soon as it says so
        self._kept: set[int] = set()  # the clients' descriptors of what could not be given
        self._carried = 0
        self._awaited = "hello"  # what the taker is to say next
        self._moved = engine.now  # when it said something last, or took something
        self._gave_up = ""  # why
        self._stops = ""  # why it ends after this round
        self.is_giving = True  # what is counted here and what was given is not to be told apart
        gate.close(self._emptied)
        self._channel.send(t="hello", version=VERSION)
        self._be_patient()

    @property
    def is_over(self) -> bool:
        return self._ended is _nobody

    def control_lost(self) -> None:
        """Keep what is left after the present round, and accept again: nobody else may have been told to."""
        self._stop("control is gone")
        if not self.is_giving:
            self._end(self._stops)

    def _stop(self, reason: str) -> None:
        """End after the present round, and accept again."""
        self._stops = self._stops or reason
        self._gate.reopen()

    def close(self) -> None:
        """Leave without a word, as if the process had ended: what has gone over is the taker's."""
        self._channel.close()
        for parcel in self._parcels:
            _close(parcel)

    # Rounds

    def _next_round(self) -> None:
        if not self._queue:
            there = packing.movables(self._services.values())
            self._queue = [each for each in reversed(there) if packing.client_of(each) not in self._kept]
        if self._queue and not self._stops:
            self._channel.want_room()
        else:
            self._done()

    def on_room(self) -> None:
        self._moved = self._engine.now
        if self._gave_up:
            self._channel.close()
            self._take_back()
            self._end(self._gave_up)
        elif self.is_giving and not self._awaited:
            self._give()

    def _give(self) -> None:
        """Send a batch, and end the round if that was the last one."""
        batch = Batch()
        while not batch.is_full and self._queue and len(self._parcels) < ROUND:
            movable = self._queue.pop()
            if packing.is_there(movable):
                self._pack(movable, batch)
        if batch.descriptors:
            self._channel.send_batch(batch)
        if self._queue and len(self._parcels) < ROUND:
            self._channel.want_room()
        elif self._parcels:
            self._channel.send(t="round", parcels=len(self._parcels))
            self._awaited = "ready"
        else:
            self._next_round()

    def _pack(self, movable: packing.Movable, batch: Batch) -> None:
        client, now = packing.client_of(movable), time.monotonic()
        try:
            parcel = packing.pack(movable)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this connection's alone
            movable.fail(error)
            return
        try:
            batch.add(parcel, now)
        except (ValueError, TypeError) as error:
            log.warning("a connection cannot be handed over", extra=facts(service=parcel.service, error=error))
            self._kept.add(client)
            packing.unpack(self._services, parcel)
        else:
            self._parcels.append(parcel)

    def on_frame(self, frame: Frame) -> None:
        for fd in frame.descriptors:
            os.close(fd)
        self._moved = self._engine.now
        match frame.values:
            case _ if self._gave_up:
                pass
            case {"t": "hello"} if self._awaited == "hello":
                self._awaited = ""
                self._next_round()
            case {"t": "refused", "reason": reason} if self._awaited == "hello":
                self._channel.close()
                self._end(str(reason))
            case {"t": "ready", "refused": list(refused)} if self._awaited == "ready":
                self._go({int(index) for index in refused})
            case {"t": "taken"} if self._awaited == "taken":
                self._let_go()
            case _:
                raise ValueError(f"an answer that was not asked for: {str(frame.values)[:80]}")

    def _go(self, refused: set[int]) -> None:
        parcels, self._parcels = self._parcels, []
        for index, parcel in enumerate(parcels):
            if index in refused:
                self._kept.add(parcel.sockets[0].fileno())
                packing.unpack(self._services, parcel)
            else:
                self._parcels.append(parcel)
        self._awaited = "taken"
        self._channel.send(t="go")

    def _let_go(self) -> None:
        self._awaited = ""
        self._carried += len(self._parcels)
        for parcel in self._parcels:
            _close(parcel)
        self._parcels.clear()
        self._next_round()

    def _take_back(self) -> None:
        parcels, self._parcels = self._parcels, []
        for parcel in parcels:
            packing.unpack(self._services, parcel)

    # The end

    def _done(self) -> None:
        """The taker has everything that it could take."""
        self._channel.send(t="done")
        self.is_giving = False
        if self._stops:
            self._end(self._stops)
        elif self._gate.clients:
            log.info("some connections stay", extra=facts(carried=self._carried, kept=self._gate.clients))
            self._announce()
        else:
            self._end("")

    def _announce(self) -> None:
        """Tell control what is left of each drain, which was not said for a while."""
        for service in self._services.values():
            service.announce_drains()

    def _emptied(self) -> None:
        """The last client has left; while parcels are on the way that says nothing."""
        if not self.is_giving:
            self._end("")

    def _end(self, error: str) -> None:
        if self.is_over:
            return
        if error:
            self.is_giving = False
            self._gate.reopen()
            self._announce()
            log.warning("connections stay", extra=facts(carried=self._carried, kept=self._gate.clients, error=error))
        ended, self._ended = self._ended, _nobody
        ended(self._carried, error)

    def on_gone(self) -> None:
        """Everything the taker said was heard before: what it has not said `taken` to, it never touched."""
        if self.is_giving:
            self._take_back()
            self._end("the taker is gone")

    def fail(self, error: Exception) -> None:
        log.error("connections could not be handed over", exc_info=error)
        if not self.is_giving:
            self._channel.close()
        else:
            self._give_up(repr(error))

    def _be_patient(self) -> None:
        """Look again and again whether the taker goes on."""
        if not self.is_giving:
            return
        due = self._moved + PATIENCE
        if self._engine.now < due:
            self._engine.at(due, self._be_patient)
        else:
            self._stop(_SILENT)
            self._give_up(_SILENT)

    def _give_up(self, reason: str) -> None:
        """Take back what is on the way, unless the taker has been told to go: then it answers, or is gone."""
        if self._awaited != "taken" and not self._gave_up:
            self._gave_up = reason
            self._channel.send(t="abort", reason=reason)
            self._channel.want_room()


class Taker:
    """Takes what a giver gives. `ended(carried, pause, error)` is called when there is no more of it.

    `pause` is the longest time in seconds for which a connection was not read.
    """

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        services: Mapping[str, Service],
        gate: Gate,
        ended: Callable[[int, float, str], None],
    ) -> None:
        self._services = services
        self._gate = gate
        self._ended = ended
        self._channel = Channel(engine, sock, self)
        self._parked: list[tuple[Parcel, float] | None] = []  # of this round, with its time of packing
        self._error: Exception | None = None  # why one was refused, in this round
        self._is_taking = False  # the giver has said go
        self._carried = 0
        self._pause = 0.0

    def close(self) -> None:
        """Leave without a word, as if the process had ended."""
        self._channel.close()
        self._drop()

    def on_frame(self, frame: Frame) -> None:
        match frame.values:
            case {"t": "parcels", "parcels": list(parcels)}:
                self._park_all(parcels, frame.descriptors)
            case _:
                for fd in frame.descriptors:
                    os.close(fd)
                self._obey(frame.values)

    def _obey(self, values: dict[str, Any]) -> None:
        match values:
            case {"t": "hello", "version": version}:
                self._greet(version)
            case {"t": "round", "parcels": count}:
                self._answer(count)
            case {"t": "go"}:
                self._is_taking = True
                self._channel.send(t="taken")
                if self._channel.has_sent:
                    self._take()
                else:
                    self._channel.want_room()
            case {"t": "done"}:
                self._channel.close()
                self._end("")
            case {"t": "abort", "reason": reason}:
                self.close()
                self._end(str(reason))
            case _:
                raise ValueError(f"not a frame of version {VERSION}: {str(values)[:80]}")

    def _greet(self, version: object) -> None:
        if version in READS:
            self._channel.send(t="hello", version=VERSION)
            return
        reason = f"connections of handover version {version} cannot be read, only {', '.join(map(str, READS))}"
        self._channel.send(t="refused", reason=reason)
        self._end(reason)

    # Parking

    def _park_all(self, parcels: list[dict[str, Any]], descriptors: list[int]) -> None:
        """Take one batch in. There are fewer descriptors than were sent when no more fit into this process."""
        if self._is_taking:  # that there is more says that the giver knows
            self._take()
        left = iter(descriptors)
        try:
            for values in parcels:
                wanted = int(values["sockets"])
                self._parked.append(self._park(values, wanted, list(itertools.islice(left, wanted))))
        finally:
            for fd in left:
                os.close(fd)

    def _park(self, values: dict[str, Any], wanted: int, descriptors: list[int]) -> tuple[Parcel, float] | None:
        """Return a parcel and when it was packed, or None if it has to be refused."""
        sockets: list[_socket.socket] = []
        try:
            if len(descriptors) < wanted:
                raise ValueError("there are no descriptors left")
            if self._gate.clients + len(self._parked) >= self._gate.capacity:
                raise ValueError("at the limit of connections")
            sockets.extend(_socket.socket(fileno=fd) for fd in descriptors)
            parcel = Parcel(values["kind"], values["service"], values["state"], tuple(sockets))
            packing.check(self._services, parcel)
            return parcel, float(values["packed"])
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self._error = error
        for sock in sockets:
            sock.close()
        for fd in descriptors[len(sockets) :]:
            os.close(fd)
        return None

    def _answer(self, count: int) -> None:
        if count != len(self._parked):
            raise ValueError(f"{len(self._parked)} of {count} parcels came")
        refused = [index for index, each in enumerate(self._parked) if each is None]
        if refused:
            log.warning("connections are refused", extra=facts(refused=len(refused), of=count, error=self._error))
        self._channel.send(t="ready", refused=refused)

    # Taking

    def on_room(self) -> None:
        """The giver knows, or is gone."""
        if self._is_taking:
            self._take()

    def _take(self) -> None:
        """Make what is parked live."""
        self._is_taking = False
        parked, self._parked = self._parked, []
        for each in parked:
            if each is not None:
                parcel, packed = each
                packing.unpack(self._services, parcel)
                self._carried += 1
                self._pause = max(self._pause, time.monotonic() - packed)
        for service in self._services.values():
            service.announce_drains()

    def on_gone(self) -> None:
        """It is dead, or else it would have said something: what has come is ours."""
        if self._parked:
            self._take()
        self._end("")

    def _drop(self) -> None:
        parked, self._parked = self._parked, []
        for each in parked:
            if each is not None:
                _close(each[0])

    def _end(self, error: str) -> None:
        ended, self._ended = self._ended, _nobody
        if ended is not _nobody:
            extra = facts(carried=self._carried, pause=round(self._pause, 4), error=error or None)
            log.info("connections came", extra=extra)
        ended(self._carried, self._pause, error)

    def fail(self, error: Exception) -> None:
        log.error("connections could not be taken over", exc_info=error)
        self.close()
        self._end(repr(error))


def _close(parcel: Parcel) -> None:
    """Close our copies. The other worker has the sockets, so that nobody at their far ends notices."""
    for sock in parcel.sockets:
        sock.close()


def _nobody(*_: object) -> None:
    """It was said before."""
