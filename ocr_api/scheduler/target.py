"""One target, and the turns of its pages: who may draw and read one more.

Turns are a few more than the places at the servers, so that drawn pages are ready when a place
becomes free, and no more are in memory than that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from model_registry.card import Card
from ocr_api.request import Lane
from ocr_api.scheduler.order import LANES, Line, Member
from ocr_api.scheduler.pace import Pace
from ocr_api.scheduler.replica import Clock, Replica, away

Grant = asyncio.Future[None]


class Target:
    """The servers that a route names for a card, with the pages that are to be read there."""

    def __init__(
        self, card: Card, find: Callable[[], tuple[Replica, ...]], ahead: int, clock: Clock
    ) -> None:
        """Take the card, what finds its servers as they are now, and how many pages go ahead."""
        self.card = card
        self._find = find
        self._seen: tuple[Replica, ...] = ()
        self.line: Line[Grant] = Line()
        self.working = 0
        """Turns held."""
        self.pages: Counter[str] = Counter()
        """Pages taken and not done, by organisation."""
        self.pace = Pace()
        self._ahead = ahead
        self._clock = clock
        self._working: Counter[Lane] = Counter()
        self._since: dict[Lane, dict[Grant, float]] = {lane: {} for lane in LANES}
        """When those who wait for a turn began to, the first of a lane first."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The servers, as they are now."""
        found = self._find()
        if found != self._seen:
            self._follow(found)
        return found

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is to be read here, and nobody holds a turn."""
        return not (self.working or self.pages or self.line.is_used)

    def close(self) -> None:
        """Follow its servers no more."""
        self._follow(())

    @property
    def most(self) -> int:
        """Turns at once."""
        return sum(one.most for one in self.replicas) + self._ahead

    def waiting(self, lane: Lane) -> int:
        """Return how many pages of a lane are taken on and have no turn."""
        return max(0, self.line.pages[lane] - self._working[lane])

    def oldest(self, lane: Lane) -> float:
        """Return the seconds that the page of a lane has waited that waits longest for its turn."""
        first = next(iter(self._since[lane].values()), None)
        return 0.0 if first is None else self._clock() - first

    def check(self) -> None:
        """Refuse where no server can be asked.

        Raises:
            EngineUnavailable: the circuit of each is open.
        """
        if all(one.circuit.state == "open" for one in self.replicas):
            raise away(self.card, self.replicas, self._clock())

    async def turn(self, member: Member[Grant]) -> None:
        """Wait for a turn; `done` ends it.

        Raises:
            EngineUnavailable: no server answers, and none has for a while.
        """
        if self._is_away():
            raise away(self.card, self.replicas, self._clock())
        if self.working < self.most:
            self._begin(member)
            return
        future: Grant = asyncio.get_running_loop().create_future()
        since = self._since[member.side.lane]
        since[future] = self._clock()
        self.line.wait(member, future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._end(member)  # it was just given to a page that is no more
            raise
        finally:
            del since[future]
            self.line.drop(member, future)

    def done(self, member: Member[Grant]) -> None:
        """End a turn: its page is done, and the next may begin."""
        self.pace.done()
        member.finish(1)
        self._end(member)

    def fill(self) -> None:
        """Give the free turns to those who wait; refuse them all where no server is left."""
        if self._is_away():
            for future in self.line.everybody():
                if not future.done():
                    future.set_exception(away(self.card, self.replicas, self._clock()))
            return
        while self.working < self.most and (found := self.line.next(lambda one: not one.done())):
            member, future = found
            self._begin(member)
            future.set_result(None)

    def leave(self, member: Member[Grant]) -> None:
        """Take a document out; whatever of it still waits is cancelled."""
        for future in self.line.leave(member):
            future.cancel()

    def _follow(self, replicas: tuple[Replica, ...]) -> None:
        """Be told of changes of these servers, and of no others."""
        before, self._seen = self._seen, replicas
        for replica in before:
            replica.changed.remove(self.fill)
        for replica in replicas:
            replica.changed.append(self.fill)

    def _begin(self, member: Member[Grant]) -> None:
        self.working += 1
        self._working[member.side.lane] += 1
        member.count(1)
        self.pace.goes_on(self._clock(), busy=True)

    def _end(self, member: Member[Grant]) -> None:
        self.working -= 1
        self._working[member.side.lane] -= 1
        member.count(-1)
        self.pace.goes_on(self._clock(), busy=self.working > 0)
        self.fill()

    def _is_away(self) -> bool:
        return all(one.circuit.is_gone for one in self.replicas)
