"""A scheduler with servers that say what a test wants; chosen by the scheduler's tests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from files_api.kit.errors import AppError
from model_registry.card import Card
from ocr_api.engines import Engine, Load, PageTask, Supplies
from ocr_api.result import Reading
from ocr_api.scheduler import Scheduler, Share, Ticket
from ocr_api.scheduler.order import LANES
from tests.engines.failing import no_pool

ONE, TWO = "http://one/v1", "http://two/v1"
GOOD = Reading("Good.")
AT_ONCE = (0.0, 0.0, 0.0)
"""Pauses of no length."""


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Servers(Engine):
    """Says of each server what the test wants to hear."""

    def __init__(self) -> None:
        super().__init__(Supplies(no_pool))
        self.ill: set[str | None] = set()
        self.looked: Counter[str | None] = Counter()
        self.looks = asyncio.Event()
        self.hangs = False
        self.says: dict[str, Load] = {}

    async def read(self, task: PageTask) -> Reading:
        raise AssertionError(task)

    async def problem(self, card: Card, url: str | None) -> str | None:
        self.looked[url] += 1
        self.looks.set()
        if self.hangs:
            await asyncio.Event().wait()
        return f"{card.name} is away." if url in self.ill else None

    async def load(self, card: Card, url: str) -> Load | None:
        del card
        return self.says.get(url)


def make_card(name: str = "m", **facts: Any) -> Card:
    texts = dict.fromkeys(("name", "description", "licence", "source"), "x")
    return Card.model_validate({"id": name, "engine": "any", "parser": "plain", **texts, **facts})


CARD = make_card(pages_in_flight=4)


class World:
    """A scheduler, its servers, and pages that are asked about there."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.engine = Servers()
        options = {"pauses": AT_ONCE, "clock": self.clock, "probes": (0.0, 30.0)} | options
        self.scheduler = Scheduler({"any": self.engine}, **options)
        self.stack = ExitStack()
        self.asked: list[str | None] = []
        self.order: list[str] = []
        """Names of the pages as they were asked for."""
        self._held: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def admit(
        self,
        org: str = "org",
        pages: int = 10,
        *,
        urls: tuple[str, ...] = (ONE,),
        card: Card = CARD,
        **share: Any,
    ) -> Ticket:
        """Take on a document until the end of the test."""
        admitted = self.scheduler.admit(Share(org, **share), card, urls, pages)
        return self.stack.enter_context(admitted)

    def run(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Do something beside the test."""
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        return task

    def answers(self, *said: Reading | AppError) -> Callable[[str | None], Awaitable[Reading]]:
        """Return a question whose answers these are; the last one is given for ever."""
        left = list(said)

        async def ask(url: str | None) -> Reading:
            self.asked.append(url)
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, AppError):
                raise answer
            return answer

        return ask

    def held(self, name: str = "") -> Callable[[str | None], Awaitable[Reading]]:
        """Return a question that is answered when `answer` says so."""

        async def ask(url: str | None) -> Reading:
            self.asked.append(url)
            self.order.append(name)
            event = asyncio.Event()
            self._held.append(event)
            try:
                await event.wait()
            finally:
                if event in self._held:
                    self._held.remove(event)
            return GOOD

        return ask

    @property
    def under_way(self) -> int:
        return len(self._held)

    def answer(self, count: int | None = None) -> None:
        """Let the oldest questions be answered; all of them by default."""
        for event in self._held[:count]:
            event.set()

    def read(
        self, ticket: Ticket, count: int, name: str, *, urls: tuple[str, ...] = (ONE,)
    ) -> list[asyncio.Task[Reading]]:
        """Read pages as the pipeline does: one waits for its turn, those with a turn are read."""

        async def page(turn: Any) -> Reading:
            with turn:
                return await ticket.ask(CARD, urls, self.held(name))

        async def document() -> None:
            while len(pages) < count:
                turn = await ticket.turn()
                pages.append(self.run(page(turn)))

        pages: list[asyncio.Task[Reading]] = []
        self.run(document())
        return pages

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a look at a server makes it true."""
        async with asyncio.timeout(30):
            while not holds():
                self.engine.looks.clear()
                await self.engine.looks.wait()
                await settle()

    async def end(self) -> None:
        """End everything and check that nothing is left over."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.stack.close()
        await self.scheduler.close()
        self.check_empty()

    def check_empty(self) -> None:
        scheduler = self.scheduler
        for target in scheduler._targets.values():
            assert (target.working, target.pages.total()) == (0, 0)
            assert [target.waiting(lane) for lane in LANES] == [0, 0]
            assert [*target.line.pages.values()] == [0, 0]
            assert list(target.line.everybody()) == []
        for places in scheduler._places_of.values():
            assert list(places.line.everybody()) == []
            assert [replica.in_flight for replica in places.all()] == [0] * len(places.all())
        assert (scheduler._admission._all_pages, scheduler._admission._all_requests) == (0, 0)
        assert (scheduler._admission._pages, scheduler._admission._requests) == ({}, {})


async def settle() -> None:
    """Let every task go on until all of them wait."""
    for _ in range(60):
        await asyncio.sleep(0)
