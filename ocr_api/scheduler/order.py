"""Who is next: interactive before background, then fair between organisations and documents.

Among those who wait, the organisation with the least work per weight is first, then its document
with the least work. So a new small document overtakes a large one, and a large one goes on while
nobody else waits. Where there are few places all have the same at work, often nothing: then the
organisation is first that has had the least per weight since it came (start-time fair queueing),
and the document that was served longest ago; by who came first a long document would keep the
only place to its end.

Keys are kept with the things that they order, so that a choice is two passes of `min` over plain
tuples: 0.1 ms with a thousand documents waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from typing import Generic, TypeVar

from ocr_api.request import Lane

Waiter = TypeVar("Waiter")

LANES: tuple[Lane, ...] = ("interactive", "background")
_BY_KEY = attrgetter("key")


@dataclass(frozen=True, slots=True)
class Share:
    """On whose account a document is read."""

    org: str
    weight: int = 100
    """Against other organisations': twice as much gets twice the places."""
    lane: Lane = "interactive"
    pages: int = 0
    """How many the document brings; they change nobody's order."""


class Member(Generic[Waiter]):
    """One document in a line: what it has at work, and what waits."""

    __slots__ = ("held", "key", "number", "pages", "served", "side", "waiting")

    def __init__(self, side: _Side[Waiter], number: int, pages: int = 0) -> None:
        self.side = side
        self.number = number
        self.pages = pages
        """That it brought and that are not done."""
        self.held = 0
        self.served = 0
        """When it got something last, as a number that grows; 0: never."""
        self.waiting: deque[Waiter] = deque()
        self.key = (0, 0, number)

    def count(self, change: int) -> None:
        """Count work that begins (1) or ends (-1)."""
        org = self.side.org
        self.held += change
        if change > 0:
            self.served = org.line.number()
        self.key = (self.held, self.served, self.number)
        org.count(change)

    def finish(self, pages: int) -> None:
        """Count pages that are done, or never will be; beyond those that it brought, nothing."""
        pages = min(pages, self.pages)
        self.pages -= pages
        self.side.org.line.pages[self.side.lane] -= pages


class _Side(Generic[Waiter]):
    """The documents of one organisation that wait in one lane."""

    __slots__ = ("best", "key", "lane", "org", "waiting")

    def __init__(self, org: _Org[Waiter], lane: Lane) -> None:
        self.org = org
        self.lane = lane
        self.waiting: dict[Member[Waiter], None] = {}
        self.best: Member[Waiter] | None = None
        self.key: tuple[float, float, int, int, int] = (0.0, 0.0, 0, 0, 0)

    def choose(self) -> None:
        """Find the document that is next; call it whenever anything has changed."""
        self.best = min(self.waiting, key=_BY_KEY, default=None)
        if self.best is not None:
            self.key = (self.org.load, self.org.had, *self.best.key)


class _Org(Generic[Waiter]):
    """One organisation in a line; its work counts in both lanes."""

    __slots__ = ("had", "held", "line", "members", "sides", "weight")

    def __init__(self, line: Line[Waiter]) -> None:
        self.line = line
        self.had = 0.0
        """What it got since it came, per weight; who comes begins where the others are."""
        self.held = 0
        self.members = 0
        self.weight = 1
        self.sides: dict[Lane, _Side[Waiter]] = {lane: _Side(self, lane) for lane in LANES}

    @property
    def load(self) -> float:
        """Its work per weight if it got one more; who has none is first, whatever its weight."""
        return (self.held + 1) / self.weight if self.held else 0.0

    def count(self, change: int) -> None:
        self.held += change
        if change > 0:
            self.line.had = max(self.line.had, self.had)
            self.had += 1 / self.weight
        for side in self.sides.values():
            if side.waiting:
                side.choose()


class Line(Generic[Waiter]):
    """Those who wait for one kind of thing; it knows neither the thing nor a clock."""

    def __init__(self) -> None:
        self._orgs: dict[str, _Org[Waiter]] = {}
        self._sides: dict[Lane, dict[_Side[Waiter], None]] = {lane: {} for lane in LANES}
        self._numbers = count(1)
        self.pages: dict[Lane, int] = dict.fromkeys(LANES, 0)
        """Those that documents brought and that are not done, by lane."""
        self.had = 0.0
        """What the organisation that was served last had had, per weight."""

    @property
    def is_used(self) -> bool:
        """Tell whether any document is in it."""
        return any(org.members or org.held for org in self._orgs.values())

    def number(self) -> int:
        """Return the next of the numbers that things are ordered by."""
        return next(self._numbers)

    def join(self, share: Share) -> Member[Waiter]:
        """Return a new document's place in the line; it waits for nothing yet."""
        for name in [name for name, org in self._orgs.items() if not (org.members or org.held)]:
            del self._orgs[name]
        org = self._orgs.setdefault(share.org, _Org(self))
        if not org.members:
            org.had = max(org.had, self.had)
        org.weight = max(1, share.weight)
        org.members += 1
        self.pages[share.lane] += share.pages
        return Member(org.sides[share.lane], self.number(), share.pages)

    def leave(self, member: Member[Waiter]) -> tuple[Waiter, ...]:
        """Take a document out and return who still waited; its work counts until it ends."""
        left = tuple(member.waiting)
        member.waiting.clear()
        member.finish(member.pages)
        self._settle(member)
        member.side.org.members -= 1
        return left

    def wait(self, member: Member[Waiter], waiter: Waiter) -> None:
        """Let one more wait, behind the others of its document."""
        member.waiting.append(waiter)
        self._settle(member)

    def drop(self, member: Member[Waiter], waiter: Waiter) -> None:
        """Let one wait no longer, if it does."""
        if waiter in member.waiting:
            member.waiting.remove(waiter)
            self._settle(member)

    def next(self, accepts: Callable[[Waiter], bool]) -> tuple[Member[Waiter], Waiter] | None:
        """Take out and return the first who accepts what there is; None where nobody does."""
        for lane in LANES:
            if not (sides := self._sides[lane]):
                continue
            best = min(sides, key=_BY_KEY).best
            if best is not None and accepts(best.waiting[0]):
                return self._take(best, best.waiting[0])
            for member in self._in_order(lane):
                for waiter in member.waiting:
                    if accepts(waiter):
                        return self._take(member, waiter)
        return None

    def first(self) -> Member[Waiter] | None:
        """Return the document that is next; None where nobody waits."""
        for lane in LANES:
            if sides := self._sides[lane]:
                return min(sides, key=_BY_KEY).best
        return None

    def everybody(self) -> Iterator[Waiter]:
        """Return all who wait, in no order; the line may change while they are gone through."""
        sides = [side for lane in LANES for side in self._sides[lane]]
        return iter([one for side in sides for member in side.waiting for one in member.waiting])

    def _in_order(self, lane: Lane) -> Iterator[Member[Waiter]]:
        for side in sorted(self._sides[lane], key=_BY_KEY):
            yield from sorted(side.waiting, key=_BY_KEY)

    def _take(self, member: Member[Waiter], waiter: Waiter) -> tuple[Member[Waiter], Waiter]:
        self.drop(member, waiter)
        return member, waiter

    def _settle(self, member: Member[Waiter]) -> None:
        """Keep the lists of who has somebody waiting."""
        side = member.side
        if member.waiting:
            side.waiting[member] = None
        else:
            side.waiting.pop(member, None)
        side.choose()
        if side.waiting:
            self._sides[side.lane][side] = None
        else:
            self._sides[side.lane].pop(side, None)
