"""A document that was taken on: its turns, its questions, its repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from model_registry.card import Card
from ocr_api.result import Reading
from ocr_api.scheduler.admission import Admission
from ocr_api.scheduler.order import Member, Share
from ocr_api.scheduler.replica import Places, Want
from ocr_api.scheduler.retry import Ask, Asking, Budget
from ocr_api.scheduler.target import Target


class Turn:
    """The right to draw and read one page, held while a block runs."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done

    def __enter__(self) -> None:
        """Hold it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count the page as done; the next one may begin."""
        self._done()


class Ticket:
    """A document's right to turns and places."""

    def __init__(
        self,
        share: Share,
        target: Target,
        pages: int,
        admission: Admission,
        places: Callable[[Card], Places],
        pauses: Sequence[float],
    ) -> None:
        self.budget = Budget(pages)
        """The repeats that are left."""
        self._share = share
        self._target = target
        self._left = pages
        self._admission = admission
        self._places = places
        self._pauses = pauses
        self._member = target.line.join(share)
        self._seats: dict[Places, Member[Want]] = {}
        admission.add(target, share.org, pages)

    async def turn(self) -> Turn:
        """Wait until one more page of the document may be drawn and read.

        Raises:
            EngineUnavailable: no server that could read it answers, and none has for a while.
        """
        await self._target.turn(self._member)
        return Turn(self._done)

    async def ask(self, card: Card, urls: tuple[str, ...], ask: Ask) -> Reading:
        """Return one answer from one of the servers, asked as often as it makes sense.

        Args:
            card: who is asked: the pages' own card, or an annotator's.
            urls: base URLs of the servers that run it; none for an embedded engine.
            ask: the question.

        Raises:
            AppError: the last failure.
        """
        places = self._places(card)
        if places not in self._seats:
            self._seats[places] = places.line.join(self._share)
        asking = Asking(places, self._seats[places], self.budget, self._pauses)
        return await asking.ask(places.replicas(urls), ask)

    def close(self) -> None:
        """Drop whatever waits; turns and questions under way count until they end."""
        self._target.leave(self._member)
        for places, seat in self._seats.items():
            places.leave(seat)
        self._admission.subtract(self._target, self._share.org, self._left)
        self._left = 0

    def _done(self) -> None:
        if self._left:
            self._left -= 1
            self._admission.subtract(self._target, self._share.org, 1)
        self._target.done(self._member)
