"""R14, R15 and R16 in short: who comes first at the engine, and who is told to come back.

What is checked is order and counts, in the stand-in's log; figures come from the bench. The first
pages of each test are slow, so that all who compete stand in the queue before the next is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from statistics import median
from typing import Any

import httpx
import pytest

from tests.e2e.reading import (
    AHEAD,
    IN_FLIGHT,
    Service,
    Standin,
    as_document,
    new_name,
    pdf,
    serving,
    standin,
)

LARGE, SMALL = 60, 2
HELD = 2 * IN_FLIGHT + AHEAD
"""Pages that a document which came first may still have in front of a later one: those at the
engine, those that are drawn, and one round while the later one's are drawn."""
SLOW = f"do=slow,delay=1,nth=1-{IN_FLIGHT}"
SLOWER = f"do=slow,delay=2.5,nth=1-{IN_FLIGHT}"
"""Long enough for a crowd to come before any of it goes."""
ORGS = ("one", "two", "three")
BOUNDS = {
    "MAX_REQUESTS": "8",
    "ORG_REQUESTS": "4",
    "MAX_QUEUED_PAGES": "100",
    "ORG_QUEUED_PAGES": "50",
}
QUICK, QUICKER = 5.0, 1.0
"""Seconds of every refusal, and of most of them, on a slow machine with all clients in one
process; the figure itself is the bench's."""

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def running() -> Iterator[Standin]:
    with standin("--mode", "fixed", "--delay", "0.1") as engine:
        yield engine


@pytest.fixture
def engine(running: Standin) -> Standin:
    """The stand-in that is slow at first."""
    running.fault(SLOW)
    return running


@pytest.fixture(scope="module")
def fair(running: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with room for all, and an organisation of three times the weight."""
    folder = tmp_path_factory.mktemp("fair")
    with serving(folder, [running.base], "one", "two", "heavy:300") as service:
        yield service


@pytest.fixture(scope="module")
def bounded(running: Standin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with little room."""
    with serving(tmp_path_factory.mktemp("bounded"), [running.base], *ORGS, **BOUNDS) as service:
        yield service


# --- order ----------------------------------------------------------------------------------------


class Race:
    """Documents that are read at the same time, in the order in which they came."""

    def __init__(self, service: Service, engine: Standin, stack: ExitStack) -> None:
        self._service = service
        self._engine = engine
        self._pool = stack.enter_context(ThreadPoolExecutor())
        self._readings: list[Future[None]] = []

    def enter(self, name: str, pages: int, key: int = 0) -> str:
        """Ask for a document; return when its pages are in the queue."""
        request = new_name()
        events = self._service.stream(pdf(name, pages), key=key, name=request)
        assert next(events)[0] == "start"
        self._readings.append(self._pool.submit(self._read, events, pages))
        return request

    def enter_first(self, name: str, pages: int, key: int = 0) -> str:
        """Ask for the document that fills the engine."""
        request = self.enter(name, pages, key)
        self._engine.until(lambda now: now["in_flight"] == IN_FLIGHT)
        return request

    @staticmethod
    def _read(events: Iterator[tuple[str, Any]], pages: int) -> None:
        found = [name for name, _ in events]
        assert found == ["page"] * pages + ["done"]

    def order(self) -> list[str]:
        """Return whose pages the engine was asked for, in order, when all is read."""
        for reading in self._readings:
            reading.result(60)
        return [request for request, _ in self._engine.asked()]


@pytest.fixture
def race(fair: Service, engine: Standin) -> Iterator[Race]:
    with ExitStack() as stack:
        yield Race(fair, engine, stack)


def span(order: list[str], request: str) -> list[str]:
    """Return what came between the first and the last page of a request, these included."""
    last = len(order) - order[::-1].index(request)
    return order[order.index(request) : last]


@pytest.mark.parametrize("key", [0, 1], ids=["own", "other"])
def test_a_small_document_overtakes_a_large_one(race: Race, key: int) -> None:
    """R16: it waits for what is in front of it at the engine, not for the document."""
    large = race.enter_first(f"large {key}", LARGE)
    small = race.enter(f"small {key}", SMALL, key)
    order = race.order()
    assert (order.count(large), order.count(small)) == (LARGE, SMALL)
    assert len(order) - order[::-1].index(small) <= HELD + SMALL


def test_many_small_documents_do_not_starve_a_large_one(race: Race) -> None:
    """R16: it goes on between them."""
    large = race.enter_first("goes on", LARGE)
    small = [race.enter(f"one of many {number}", SMALL) for number in range(10)]
    order = race.order()
    last = max(len(order) - order[::-1].index(one) for one in small)
    assert last <= HELD + 4 * SMALL * len(small)
    assert order.count(large) == LARGE


def test_two_organisations_share(race: Race) -> None:
    """R15: page by page, however much one of them has queued before."""
    for number in range(3):
        race.enter_first(f"much {number}", 30)
    other = race.enter("little", 20, key=1)
    between = span(race.order(), other)
    assert 10 <= len(between) - 20 <= 30


def test_organisations_share_by_weight(race: Race, engine: Standin) -> None:
    """R15: three times the weight is three pages for each of the other's."""
    engine.fault(SLOW, "do=slow,delay=0.6")  # so that pages are drawn before a place is free
    race.enter_first("light", LARGE)
    heavy = race.enter("heavy", 45, key=2)
    between = span(race.order(), heavy)
    assert 8 <= len(between) - 45 <= 24


# --- overload -------------------------------------------------------------------------------------


class Crowd:
    """Many clients at a time, each on a connection of its own; refusals are quick."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self._service = service
        self._client = client
        self.refusals: list[float] = []
        """Seconds of each."""
        self._page = {"document": as_document(pdf("of the crowd", 1)), "skip_cache": True}

    async def ask(self, key: int = 0, document: bytes | None = None) -> httpx.Response:
        """Ask for one page, or for a document; check that a refusal is one."""
        body = {"document": as_document(document)} if document else self._page
        begun = time.monotonic()
        answer = await self._client.post("/v1/ocr", json=body, headers=self._service.key(key))
        if answer.status_code != 200:
            self.refusals.append(time.monotonic() - begun)
            check_refused(answer)
        return answer

    async def all(self, *keys: int) -> list[int]:
        """Have each key ask for a page, all at once; return the statuses."""
        answers = await asyncio.gather(*(self.ask(key) for key in keys))
        return [answer.status_code for answer in answers]


def check_refused(answer: httpx.Response) -> None:
    codes = {429: "rate_limit_exceeded", 503: "overloaded"}
    assert answer.json()["code"] == codes[answer.status_code], answer.text
    assert 1 <= int(answer.headers["retry-after"]) <= 120


@asynccontextmanager
async def crowding(service: Service) -> AsyncIterator[Crowd]:
    limits = httpx.Limits(max_connections=None)
    base = service.recto.base
    async with httpx.AsyncClient(base_url=base, timeout=60, limits=limits) as client:
        crowd = Crowd(service, client)
        yield crowd
    assert max(crowd.refusals) < QUICK
    assert median(crowd.refusals) < QUICKER


async def stats(engine: Standin, wanted: dict[str, int]) -> None:
    """Return once the stand-in's counts are these."""
    await asyncio.to_thread(engine.until, lambda now: wanted.items() <= now.items())


async def test_an_organisation_at_its_bound_is_refused_alone(
    bounded: Service, engine: Standin
) -> None:
    """R14: 429 for what it sends beyond its own bound, at once; the others are served."""
    engine.fault(SLOWER)
    async with crowding(bounded) as crowd:
        one = asyncio.create_task(crowd.all(*[0] * 20))
        await stats(engine, {"in_flight": 4})
        two = asyncio.create_task(crowd.all(1))
        await stats(engine, {"in_flight": 5})
        assert sorted(await one) == [200] * 4 + [429] * 16
        assert await two == [200]
        assert await crowd.all(0) == [200]
    assert engine.settled()["requests"] == 6


async def test_everybody_is_refused_when_all_is_full(bounded: Service, engine: Standin) -> None:
    """R14: 503 for the organisation that comes last, although it has nothing there."""
    engine.fault(SLOWER)
    async with crowding(bounded) as crowd:
        full = [asyncio.create_task(crowd.all(*[key] * 4)) for key in (0, 1)]
        await stats(engine, {"in_flight": 8})
        assert await crowd.all(*[2] * 10) == [503] * 10
        assert await asyncio.gather(*full) == [[200] * 4] * 2
        assert await crowd.all(2) == [200]
    assert engine.settled()["requests"] == 9


async def test_five_times_as_much_as_there_is_room_for(bounded: Service, engine: Standin) -> None:
    """R14: who is accepted gets an answer, who is not is told at once, and no work is thrown away.

    40 clients ask again and again for a service that has 8 places.
    """
    engine.fault()

    async def client(crowd: Crowd, key: int) -> list[int]:
        return [(await crowd.ask(key)).status_code for _ in range(10)]

    async with crowding(bounded) as crowd:
        readings: list[Coroutine[Any, Any, list[int]]] = [
            client(crowd, number % 3) for number in range(40)
        ]
        found = [status for one in await asyncio.gather(*readings) for status in one]
        assert len(found) == 400
        accepted = found.count(200)
        assert accepted >= 8
        assert {429, 503} >= {*found} - {200} != set()
        assert await crowd.all(0, 1, 2) == [200] * 3
    counts = engine.settled()
    assert (counts["requests"], counts["completed"]) == (accepted + 3, accepted + 3)
    assert counts["max_in_flight"] <= 8


async def test_pages_are_bounded_for_one_and_for_all(bounded: Service, engine: Standin) -> None:
    """R14: a document that comes below the bound is taken whole; the next one is not taken."""
    async with crowding(bounded) as crowd:
        first = asyncio.create_task(crowd.ask(0, pdf("60 pages", 60)))
        await stats(engine, {"in_flight": IN_FLIGHT})
        assert await crowd.all(0) == [429]
        second = asyncio.create_task(crowd.ask(1, pdf("61 pages", 61)))
        await until_refused(crowd, 2, 503)
        for reading, pages in ((first, 60), (second, 61)):
            answer = await reading
            assert answer.status_code == 200
            assert len(answer.json()["pages"]) == pages
        assert await crowd.all(0, 1, 2) == [200] * 3


async def until_refused(crowd: Crowd, key: int, status: int) -> None:
    """Return once the service has taken what was just sent to it, and so refuses more."""
    end = time.monotonic() + 10
    while await crowd.all(key) != [status]:
        assert time.monotonic() < end
