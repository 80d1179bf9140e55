"""The page scheduler: what is taken on, whose page is next, and which server reads it.

The unit of work is the page. A document is admitted with its number of pages; for each of them
it waits for a turn, in which the page is drawn and read; each question to a server waits for a
place there. All bounds are the process's, none the request's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic

from model_registry.card import Card
from ocr_api import meters
from ocr_api.engines import Engine
from ocr_api.scheduler.admission import Admission, Bounds
from ocr_api.scheduler.circuit import PROBES
from ocr_api.scheduler.order import LANES, Share
from ocr_api.scheduler.replica import Addresses, Places, Replica, as_named
from ocr_api.scheduler.retry import PAUSES, Ask, Budget
from ocr_api.scheduler.target import Target
from ocr_api.scheduler.ticket import Ticket, Turn
from ocr_api.scheduler.watch import Watch

__all__ = ["PAUSES", "Ask", "Bounds", "Budget", "Scheduler", "Share", "Ticket", "Turn"]


class Scheduler:
    """Gives out turns and places; one for the whole process."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        bounds: Bounds = Bounds(),  # noqa: B008 - it is frozen
        pauses: Sequence[float] = PAUSES,
        clock: Callable[[], float] = monotonic,
        probes: Sequence[float] = PROBES,
        addresses: Addresses = as_named,
    ) -> None:
        """Keep what it needs; nothing runs yet.

        Args:
            engines: by name, as cards name them.
            bounds: the most that is taken on.
            pauses: longest seconds before each further round of tries.
            clock: seconds, never going back.
            probes: seconds before each look at a server that failed; the last for ever.
            addresses: tells which servers base URLs stand for now.
        """
        self._engines = engines
        self._bounds = bounds
        self._pauses = pauses
        self._clock = clock
        self._addresses = addresses
        self._places_of: dict[str, Places] = {}
        self._targets: dict[tuple[str, tuple[str, ...]], Target] = {}
        self._admission = Admission(bounds, self._targets.values)
        self._watch = Watch(self._replicas, self._publish, clock, probes)

    async def start(self) -> None:
        """Begin to watch the servers."""
        self._publish()
        self._watch.start()

    async def close(self) -> None:
        """Stop watching."""
        await self._watch.close()

    def enter(self, share: Share) -> AbstractContextManager[None]:
        """Count one open request while the block runs.

        Raises:
            RateLimited: the organisation has all the requests or pages that it may have.
            Overloaded: all organisations together have.
        """
        return self._admission.request(share)

    @contextmanager
    def admit(
        self, share: Share, card: Card, urls: tuple[str, ...], pages: int
    ) -> Iterator[Ticket]:
        """Take on a document while the block runs; what still waits at its end is dropped.

        A document that comes while there is room is taken whole, however long it is; one without
        pages to be read, always.

        Args:
            share: on whose account.
            card: who reads its pages.
            urls: base URLs of the servers that run the card; none for an embedded engine. Those
                that stand for several servers are looked up again for each page.
            pages: how many are to be read.

        Raises:
            RateLimited, Overloaded: as `enter` does, for pages.
            EngineUnavailable: none of the servers can be asked now.
        """
        target = self._target(card, urls)
        if pages:
            target.check()
            self._admission.check_pages(share)
        share = replace(share, pages=pages)
        ticket = Ticket(share, target, pages, self._admission, self._places, self._pauses)
        try:
            yield ticket
        finally:
            ticket.close()

    def standing(self, card: str, url: str | None) -> dict[str, object] | None:
        """Return how the server of a card (its id) at a base URL stands; None: it was not asked."""
        places = self._places_of.get(card)
        return places.standing(url) if places else None

    def forget(self, servers: Mapping[str, Collection[str]]) -> None:
        """Drop the servers that no route names any more and that have no work.

        Call it now and then: what works is dropped once it has ended.

        Args:
            servers: base URLs of the servers of each card as they are now, by its id.
        """
        self._publish()  # those that are dropped are shown at rest
        for key, target in list(self._targets.items()):
            card, urls = key
            if target.is_idle and not {*self._addresses(urls)} <= {*servers.get(card, ())}:
                target.close()
                del self._targets[key]
        held = {card: set(urls) for card, urls in servers.items()}
        for target in self._targets.values():
            theirs = {one.url for one in target.replicas if one.url is not None}
            held.setdefault(target.card.id, set()).update(theirs)
            target.fill()  # there may be servers that were not there before
        for card, places in self._places_of.items():
            places.forget(held.get(card, set()))

    def _target(self, card: Card, urls: tuple[str, ...]) -> Target:
        key = (card.id, urls)
        if key not in self._targets:
            find = partial(self._places(card).replicas, urls)
            self._targets[key] = Target(card, find, self._bounds.ahead, self._clock)
        return self._targets[key]

    def _places(self, card: Card) -> Places:
        if card.id not in self._places_of:
            engine = self._engines[card.engine]
            self._places_of[card.id] = Places(
                card, engine, self._clock, self._watch.suspect, self._addresses
            )
        return self._places_of[card.id]

    def _replicas(self) -> list[Replica]:
        return [replica for places in self._places_of.values() for replica in places.all()]

    def _publish(self) -> None:
        """Show the pages of each card that wait and that are worked on, and the longest waits."""
        waiting: dict[str, Counter[str]] = {}
        working: Counter[str] = Counter()
        oldest: dict[str, float] = {**dict.fromkeys(LANES, 0.0)}
        for target in self._targets.values():
            working[target.card.id] += target.working
            by_lane = waiting.setdefault(target.card.id, Counter())
            for lane in LANES:
                by_lane[lane] += target.waiting(lane)
                oldest[lane] = max(oldest[lane], target.oldest(lane))
        for card, count in working.items():
            meters.queue(card, waiting[card], count)
        meters.oldest(oldest)
