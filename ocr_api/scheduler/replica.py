"""Servers that run one card, and the places that they have for pages.

A place is one request at one server. It goes to whoever is next the moment it is free, or, at a
busy server, after the pause since the last page that waited.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from files_api.kit.errors import AppError, EngineBusy, EngineTimeout, EngineUnavailable
from model_registry.card import Card
from model_registry.routing import place
from ocr_api import meters
from ocr_api.engines import Engine
from ocr_api.scheduler.circuit import Circuit
from ocr_api.scheduler.limit import Limit
from ocr_api.scheduler.order import Line, Member

Clock = Callable[[], float]
Addresses = Callable[[tuple[str, ...]], tuple[str, ...]]
"""Returns the base URLs of the servers that base URLs stand for now; at least one for each."""

_PACE = 0.6
"""Of the time in which a busy server frees one place on average: so long is the pause between two
pages that waited. Answers that end within a moment would else be followed by pages that end within
a moment again, and whoever comes just after waits for a whole answer. A document with nothing at
work goes in the pause, where it is next."""
_LONGEST_PAUSE = 1.0  # seconds
_BUSY = 0.25
"""Of its places: below, there is no pause."""
_PACED_FROM = 16
"""Places: with fewer, ends that differ would leave too large a share of them empty."""
_REST = 0.25
"""Longest seconds that a place rests after a refusal: a server that is full is not asked by all
who wait, one after the other, within a moment."""


def as_named(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Return base URLs as they are: each stands for one server."""
    return urls


class Replica:
    """One server that runs a card, or the engine in this process."""

    def __init__(self, card: Card, url: str | None, engine: Engine, clock: Clock) -> None:
        places = engine.places if url is None else None
        self.card = card
        self.url = url
        self.engine = engine
        self.limit = Limit(card.pages_in_flight if places is None else places)
        self.circuit = Circuit()
        self.in_flight = 0
        self.resting = 0
        self.pauses = False
        """A page that waited was sent a moment ago."""
        self.last_asked = 0
        """A number that grows with every request of the card; 0: never."""
        self.changed: list[Callable[[], None]] = []
        """Called when it takes more than it did, or can be asked again, or no longer."""
        self.forgotten = False
        """No route names it any more: nobody looks at it, or shows it."""
        self._clock = clock

    @property
    def most(self) -> int:
        """Requests that it takes at once, as things are; 0 while its circuit is open."""
        if self.circuit.state == "open":
            return 0
        return 1 if self.circuit.is_doubted else self.limit.value

    @property
    def has_room(self) -> bool:
        """Tell whether one more request may be sent now."""
        return self.circuit.state == "closed" and self.in_flight + self.resting < self.most

    def spacing(self) -> float:
        """Return the seconds from one page that waited to the next; 0 where none are needed."""
        known, places = self.limit.seconds, self.limit.value
        is_busy = self.in_flight > places * _BUSY
        if self.url is None or known is None or places < _PACED_FROM or not is_busy:
            return 0.0
        # The newest answer's too: a mean of slow ones would hold up the quick ones that lower it.
        return min(_PACE * min(known, self.limit.newest) / places, _LONGEST_PAUSE)

    def is_shunned(self) -> bool:
        """Tell whether others are better asked."""
        return self.circuit.is_shunned(self._clock())

    def tell(self) -> None:
        """Let those who wait see that something changed."""
        self.publish()
        for changed in list(self.changed):
            changed()

    def publish(self) -> None:
        """Write what Prometheus shows of it."""
        if self.forgotten:
            return
        is_open = self.circuit.state == "open"
        server = place(self.url or "")
        meters.replica(self.card.id, server, self.in_flight, self.limit.value, is_open)


@dataclass(slots=True, eq=False)
class Place:
    """One request at one server, until `Places.give_back`."""

    replica: Replica
    member: Member[Want]
    begun: float
    period: int


@dataclass(slots=True, eq=False)
class Want:
    """A page that waits for a place at one of some servers."""

    replicas: tuple[Replica, ...]
    granted: asyncio.Future[Place] = field(repr=False)

    def candidates(self) -> Sequence[Replica]:
        """Return the servers that it would go to now, were there room."""
        closed = [one for one in self.replicas if one.circuit.state == "closed"]
        return [one for one in closed if not one.is_shunned()] or closed

    def is_hopeless(self) -> bool:
        """Tell whether none of the servers can be asked."""
        return all(one.circuit.state == "open" for one in self.replicas)


class Places:
    """The places at all servers of one card."""

    def __init__(
        self,
        card: Card,
        engine: Engine,
        clock: Clock,
        suspected: Callable[[Replica], None],
        addresses: Addresses = as_named,
    ) -> None:
        """Keep what it needs.

        Args:
            card: who reads.
            engine: what asks the servers.
            clock: seconds, never going back.
            suspected: called when somebody must look at a server.
            addresses: tells which servers base URLs stand for.
        """
        self.card = card
        self.line: Line[Want] = Line()
        self._suspected = suspected
        self._engine = engine
        self._clock = clock
        self._addresses = addresses
        self._replicas: dict[str | None, Replica] = {}
        self._number = 0

    def replicas(self, urls: Iterable[str]) -> tuple[Replica, ...]:
        """Return the servers that base URLs stand for now; without any, this process's engine."""
        found = self._addresses(tuple(urls))
        return tuple(self._replica(url) for url in (tuple(dict.fromkeys(found)) or (None,)))

    def all(self) -> list[Replica]:
        """Return every server that was ever named and is not forgotten."""
        return list(self._replicas.values())

    def standing(self, url: str | None) -> dict[str, object] | None:
        """Return how a server stands: requests, their limit, circuit; None: it was not asked."""
        one = self._replicas.get(url)
        if one is None:
            return None
        limit, circuit = one.limit.value, one.circuit.state
        return {"in_flight": one.in_flight, "limit": limit, "circuit": circuit}

    def forget(self, named: Collection[str]) -> None:
        """Forget the servers that are not among these base URLs, unless somebody needs them yet.

        Work that is under way there ends; call it again for those.
        """
        others = [one for one in self.all() if one.url is not None and one.url not in named]
        wanted = {one for want in self.line.everybody() for one in want.replicas} if others else ()
        for replica in others:
            if not (replica.in_flight or replica.resting or replica in wanted):
                replica.forgotten = True
                del self._replicas[replica.url]
                meters.replica_gone(self.card.id, place(replica.url or ""))

    async def take(self, member: Member[Want], replicas: tuple[Replica, ...]) -> Place:
        """Wait for a place at one of the servers and return it.

        Raises:
            EngineUnavailable: the circuit of each is open, or none was named.
        """
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        want = Want(replicas, future)
        if want.is_hopeless():
            raise away(self.card, replicas, self._clock())
        if room := [one for one in want.candidates() if one.has_room and not one.pauses]:
            return self._give(member, min(room, key=_by_load))
        self.line.wait(member, want)
        for one in sorted(want.candidates(), key=_by_load):
            self.fill(one)
        try:
            return await future
        except asyncio.CancelledError:
            self._hand_on(want)
            raise
        finally:
            self.line.drop(member, want)

    def give_back(self, taken: Place, error: BaseException | None) -> None:
        """End a request, learn from how it ended, and let the next one in.

        Args:
            taken: the place.
            error: what the engine raised; None where it answered.
        """
        replica = taken.replica
        before = replica.most
        # A place that is empty for a moment says nothing about what the server takes.
        full = replica.in_flight >= before or (replica.pauses and self.line.first() is not None)
        replica.in_flight -= 1
        taken.member.count(-1)
        self._learn(taken, error, full=full)
        if replica.most > before:
            replica.tell()
        self.fill(replica)

    def fill(self, replica: Replica) -> None:
        """Give the server's free places to those who wait."""

        def accepts(want: Want) -> bool:
            return not want.granted.done() and replica in want.candidates()

        while replica.has_room and self._may_go_on(replica, accepts):
            found = self.line.next(accepts)
            if found is None:
                return
            member, want = found
            want.granted.set_result(self._give(member, replica))
            self._pause(replica)

    def _may_go_on(self, replica: Replica, accepts: Callable[[Want], bool]) -> bool:
        """Tell whether the next page may be sent; in a pause, only of a document without others."""
        if not replica.pauses:
            return True
        first = self.line.first()
        return first is not None and not first.held and accepts(first.waiting[0])

    def _pause(self, replica: Replica) -> None:
        """Let a moment pass before the next page that waits is sent."""

        def resume() -> None:
            replica.pauses = False
            self.fill(replica)

        seconds = 0.0 if replica.pauses else replica.spacing()
        if seconds:
            replica.pauses = True
            asyncio.get_running_loop().call_later(seconds, resume)

    def fail_hopeless(self) -> None:
        """Refuse those who wait for servers that are all away."""
        for want in self.line.everybody():
            if want.is_hopeless() and not want.granted.done():
                want.granted.set_exception(away(self.card, want.replicas, self._clock()))

    def until_look(self, replicas: Sequence[Replica]) -> float:
        """Return the seconds until one of the servers is looked at; 0 where one can be asked."""
        if any(one.circuit.state != "open" for one in replicas):
            return 0.0
        now = self._clock()
        return max(0.0, min((one.circuit.next_look - now for one in replicas), default=0.0))

    def leave(self, member: Member[Want]) -> None:
        """Take a document out; whatever of it still waits is cancelled."""
        for want in self.line.leave(member):
            want.granted.cancel()

    def _replica(self, url: str | None) -> Replica:
        if url not in self._replicas:
            replica = Replica(self.card, url, self._engine, self._clock)
            replica.changed.append(lambda: self._changed(replica))
            self._replicas[url] = replica
        return self._replicas[url]

    def _changed(self, replica: Replica) -> None:
        if replica.circuit.state == "open":
            self.fail_hopeless()
        for one in self.all():  # those who were spared for another may be wanted now
            self.fill(one)

    def _give(self, member: Member[Want], replica: Replica) -> Place:
        self._number += 1
        replica.last_asked = self._number
        replica.in_flight += 1
        member.count(1)
        return Place(replica, member, self._clock(), replica.circuit.period)

    def _hand_on(self, want: Want) -> None:
        """Let a place that was just given to a page that was cancelled go to the next."""
        granted = want.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self.give_back(granted.result(), asyncio.CancelledError())

    def _learn(self, taken: Place, error: BaseException | None, *, full: bool) -> None:
        """Take what an end says about the server; of an engine in this process it says nothing."""
        replica, now = taken.replica, self._clock()
        limit, circuit = replica.limit, replica.circuit
        if replica.url is None or (error is not None and not isinstance(error, AppError)):
            return
        if isinstance(error, EngineUnavailable) and not isinstance(error, EngineBusy):
            if circuit.failed(taken.period):
                self._suspected(replica)
            return
        circuit.answered(taken.period)
        if isinstance(error, EngineBusy):
            limit.refused(replica.in_flight)
            self._rest(replica)
        elif isinstance(error, EngineTimeout):
            limit.timed_out()
        else:
            limit.answered(now - taken.begun, now, full=full)

    def _rest(self, replica: Replica) -> None:
        """Keep the place of a refused request empty for as long as an answer takes, at most."""
        longest = _REST if replica.limit.seconds is None else min(_REST, replica.limit.seconds)

        def rested() -> None:
            replica.resting -= 1
            self.fill(replica)

        replica.resting += 1
        rest = longest * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        asyncio.get_running_loop().call_later(rest, rested)


def _by_load(replica: Replica) -> tuple[int, int]:
    return replica.in_flight, replica.last_asked


def away(card: Card, replicas: Sequence[Replica], now: float) -> EngineUnavailable:
    """Return the error of servers that cannot be asked; it says when they are looked at next."""
    looks = [one.circuit.next_look - now for one in replicas]
    why = next((f" {one.circuit.why}" for one in replicas if one.circuit.why), "")
    said = f"No server that runs {card.id} answers; try again.{why}"
    return EngineUnavailable(said, seconds=min(looks, default=None))
