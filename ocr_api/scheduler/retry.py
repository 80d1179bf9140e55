"""Asking servers that run the same model: another one, or again, when one does not answer.

Why here and not in the engine: an engine reads one page once; how often is the scheduler's affair.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from files_api.kit.errors import AppError, EngineBusy, EngineUnavailable, PageFailed
from ocr_api import meters
from ocr_api.engines import PageRefused
from ocr_api.result import Reading
from ocr_api.scheduler.order import Member
from ocr_api.scheduler.replica import Place, Places, Replica, Want

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before further rounds, at most: each is drawn between 0 and this (full jitter, so that
pages that were refused together do not come back together)."""

Ask = Callable[[str | None], Awaitable[Reading]]
"""Asks the server at a base URL; None for an embedded engine."""

_FREE, _PAGES_PER_REPEAT = 8, 4
_FAILURES = 2
"""How often a page may be failed over before it counts as failed."""


class Budget:
    """How many repeats a document may have: some, and one for every four pages."""

    def __init__(self, pages: int) -> None:
        self._left = _FREE + pages // _PAGES_PER_REPEAT

    def spend(self) -> bool:
        """Take one and return True; False where none is left."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True


class Asking:
    """One page's way to an answer."""

    def __init__(
        self, places: Places, member: Member[Want], budget: Budget, pauses: Sequence[float]
    ) -> None:
        self._places = places
        self._member = member
        self._budget = budget
        self._pauses = iter(pauses)
        self._failures = 0

    async def ask(self, replicas: tuple[Replica, ...], ask: Ask) -> Reading:
        """Return the first answer.

        A server that is away or busy is passed over for the next one, and all are asked again
        after each pause. One that fails over the page is asked once more, or another one is.
        Nothing else is repeated: what a server refuses, it would refuse again. An engine in this
        process is asked once.

        Raises:
            AppError: the last failure.
        """
        tried: set[Replica] = set()
        last: AppError | None = None
        while True:
            left = tuple(one for one in replicas if one not in tried)
            try:
                place = await self._places.take(self._member, left)
            except EngineUnavailable as nobody:  # is left in this round
                if not await self._pause(replicas):
                    if last is None or isinstance(last, EngineUnavailable):
                        raise (last or nobody) from None
                    # A page that was cut off once, and can be asked for no more, is not at fault.
                    raise nobody from last
                tried.clear()
                continue
            if last is not None:
                meters.retried(place.replica.card.id, last.code)
            try:
                return await self._once(place, ask)
            except (EngineUnavailable, PageFailed) as error:
                last = error
                if not self._may_repeat(place.replica, error):
                    raise
                tried.add(place.replica)
                if isinstance(error, PageFailed) and not _others(replicas, tried):
                    tried.clear()

    async def _once(self, place: Place, ask: Ask) -> Reading:
        try:
            reading = await ask(place.replica.url)
        except BaseException as error:
            self._places.give_back(place, error)
            raise
        self._places.give_back(place, None)
        return reading

    async def _pause(self, replicas: tuple[Replica, ...]) -> bool:
        """Wait before the next round; False where there is none.

        Servers that are all away are not asked before they were looked at again: a pause that
        ends earlier would be a round lost.
        """
        pause = next(self._pauses, None)
        if pause is None or all(one.circuit.is_gone for one in replicas):
            return False
        look = self._places.until_look(replicas)
        await asyncio.sleep(look + random.uniform(0, pause))  # noqa: S311 - jitter is no secret
        return True

    def _may_repeat(self, replica: Replica, error: AppError) -> bool:
        """Tell whether the page may be asked for again.

        A refusal costs nobody anything, and a page that moves away from a server that has died
        is moved, not repeated: neither uses up the document's repeats.
        """
        if replica.url is None or isinstance(error, PageRefused):
            return False
        if isinstance(error, PageFailed):
            self._failures += 1
            return self._failures < _FAILURES and self._budget.spend()
        is_free = isinstance(error, EngineBusy) or replica.circuit.state != "closed"
        return is_free or self._budget.spend()


def _others(replicas: tuple[Replica, ...], tried: set[Replica]) -> bool:
    return any(one not in tried and one.circuit.state == "closed" for one in replicas)
