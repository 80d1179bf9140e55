"""Who gets the next free child: fair between owners first, then between what they work on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ocr_api.processes.link import Child, PoolUnavailable, Work

_MOST_OWNERS = 1000
"""Owners whose last turn is remembered; one that is forgotten counts as served longest ago."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """Somebody who waits for a child, or (None) for a place where one can be started."""

    child: asyncio.Future[Child | None]
    work: Work
    is_repeat: bool


class Line:
    """Those who wait for a child, the longest waiting first."""

    def __init__(self) -> None:
        self._waiting: list[Waiter] = []
        self._turn = 0
        self._served: dict[str, int] = {}  # owners and their last turns, the oldest first

    def wait(self, work: Work, *, is_repeat: bool) -> asyncio.Future[Child | None]:
        """Return what will be done when it is their turn; who cancels it waits no longer."""
        free: asyncio.Future[Child | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiter(free, work, is_repeat))
        return free

    def serve(self, owner: str) -> None:
        """Note that the owner has a turn now."""
        self._turn += 1
        self._served.pop(owner, None)
        self._served[owner] = self._turn
        if len(self._served) > _MOST_OWNERS:
            del self._served[next(iter(self._served))]

    def next(self, busy: Iterable[Work]) -> asyncio.Future[Child | None] | None:
        """Take out and return who is next, by what the children work on; None: nobody waits.

        A repeat is first: its task had its turn already. Then comes the owner with the fewest
        children at work, then the one served longest ago. Of one owner's tasks quick ones are
        first, then those of the affinity with the fewest children at work, then the oldest.

        Why quick ones are not before those of other owners: one that is quick as a rule may be
        made slow (a PDF of 47 MB without its table takes 3 s to count), and many of them would
        stop everybody.
        """
        self._waiting = [one for one in self._waiting if not one.child.done()]
        if not self._waiting:
            return None
        busy = list(busy)
        owners = Counter(work.owner for work in busy)
        affinities = Counter(work.affinity for work in busy)
        affinities[None] = 0  # tasks without an affinity have nothing to do with each other

        def place(one: Waiter) -> tuple[bool, int, int, bool, int]:
            work = one.work
            served = self._served.get(work.owner, 0)
            fewest = affinities[work.affinity]
            return not one.is_repeat, owners[work.owner], served, not work.quick, fewest

        following = min(self._waiting, key=place)
        self._waiting.remove(following)
        self.serve(following.work.owner)
        return following.child

    def fail(self, why: str) -> None:
        """Let nobody wait any longer: each gets a `PoolUnavailable`."""
        for waiter in self._waiting:
            if not waiter.child.done():
                waiter.child.set_exception(PoolUnavailable(why))
        self._waiting.clear()
