"""Pages from the ledger: the same page as when it was read, and paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from files_api.accounts import Principal, ensure_local
from files_api.kit.db import Base, Database
from files_api.kit.errors import EngineUnavailable, PageFailed
from model_registry.card import Card
from model_registry.registry import Registry
from model_registry.routing import Routes
from ocr_api.documents import Documents
from ocr_api.engines import Engine
from ocr_api.ledger import Kept, Ledger
from ocr_api.ledger.flights import Flights
from ocr_api.offline import NoFiles
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.pages import Pages
from ocr_api.pipeline import Pipeline
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Page, Reading, Result, Usage
from ocr_api.scheduler import Scheduler
from ocr_api.usage import Entry
from tests import helpers
from tests.engines import failing

CARD: dict[str, Any] = {
    "id": "m",
    "engine": "any",
    "parser": "plain",
    "name": "n",
    "description": "d",
    "licence": "MIT",
    "source": "s",
    "embedded": True,
    "pages_in_flight": 3,
    "render": {"edge": 200},
    "retries": [{"scale": 0.5}],
}
LOOP = Reading("again " * 60, usage=Usage(10, 100), finish_reason="repetition")
GOOD = Reading("Good.\n\n| a | b |\n|---|---|\n| 1 | 2 |", usage=Usage(10, 2))


class House:
    """A pipeline over a ledger of its own, and one document."""

    def __init__(
        self, folder: Path, pages: Pages, ledger: Ledger, me: Principal, entries: list[Entry]
    ) -> None:
        self.folder, self.me, self.entries = folder, me, entries
        self.ledger = ledger
        self._pages = pages

    def pipeline(self, engine: Engine, **facts: Any) -> Pipeline:
        """Return a pipeline whose pages that engine reads, with these facts on its card."""
        registry = Registry([Card.model_validate({**CARD, **facts})], Routes(default="m"))
        outbound = Outbound(OutboundLimits(max_bytes=1))
        documents = Documents(NoFiles(), outbound, self.folder, 10_000_000, helpers.room())
        engines = {"any": engine}

        async def record(_principal: Principal, entry: Entry) -> None:
            self.entries.append(entry)

        scheduler = Scheduler(engines, pauses=())
        return Pipeline(registry, engines, documents, self._pages, record, scheduler, self.ledger)

    def request(self, data: bytes, **options: Any) -> OcrRequest:
        path = self.folder / "document"
        path.write_bytes(data)
        return OcrRequest(PathSource(path), options=OcrOptions(**options), id="r1")

    async def read(self, engine: Engine, data: bytes, **options: Any) -> Result:
        return await self.pipeline(engine).run(self.request(data, **options), self.me)


class CountedFlights(Flights):
    """Tells of each who follows."""

    def __init__(self) -> None:
        super().__init__()
        self.followed = asyncio.Semaphore(0)

    async def follow(self, key: str) -> Kept | None:
        self.followed.release()
        return await super().follow(key)


@pytest.fixture
async def house(
    tmp_path: Path, pages: Pages, database_url: str, entries: list[Entry]
) -> AsyncIterator[House]:
    database = Database(database_url)
    await database.run_sync(Base.metadata.create_all)
    ledger = Ledger(database, 3600)
    await ledger.start()
    yield House(tmp_path, pages, ledger, await ensure_local(database), entries)
    await ledger.close()
    await database.close()


def alike(page: Page) -> Page:
    """Return the page without what a second reading changes."""
    nothing = Usage()
    return replace(page, usage=nothing, wasted=nothing, saved=nothing, reused=False, seconds=0)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pictures": {"want_regions": True, "want_images": True},
    "few pictures": {"want_regions": True, "want_images": True, "image_limit": 1},
    "regions": {"want_regions": True, "want_blocks": True},
    "tables": {"table_format": "html"},
    "raw": {"skip_special_tokens": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("turned", [0, 90])
async def test_a_reused_page_is_the_page_that_was_read(
    house: House, options: dict[str, Any], turned: int
) -> None:
    engine = failing.Scripted(LOOP, replace(GOOD, turned=turned))
    first = await house.read(engine, helpers.two_pictures_pdf(), **options)
    second = await house.read(engine, helpers.two_pictures_pdf(), **options)
    assert len(engine.tasks) == 2  # a loop, and a good answer from a page half as large
    assert [alike(page) for page in second.pages] == [alike(page) for page in first.pages]
    (old,), (new,) = first.pages, second.pages
    assert (old.usage, old.wasted, old.reused) == (Usage(10, 2), Usage(10, 100), False)
    assert (new.usage, new.saved, new.wasted) == (Usage(), Usage(10, 2), Usage())
    assert new.reused
    assert all(region.image for region in new.regions) or not options.get("want_images")
    paid, reused = house.entries
    assert (paid.pages, paid.pages_reused, paid.tokens) == (1, 0, Usage(10, 2))
    assert (reused.pages, reused.pages_reused, reused.reused) == (0, 1, Usage(10, 2))


OTHER: dict[str, Callable[[House, Engine], Any]] = {
    "prompt": lambda house, engine: house.read(engine, PDF, prompt="Another one."),
    "document": lambda house, engine: house.read(engine, PDF + b"\n"),
    "skip_cache": lambda house, engine: house.read(engine, PDF, skip_cache=True),
    "render": lambda house, engine: _on(house, engine, house.me, render={"edge": 201}),
    "sampling": lambda house, engine: _on(house, engine, house.me, sampling={"temperature": 1}),
    "organisation": lambda house, engine: _on(house, engine, Principal("another")),
}
PDF = helpers.pages_pdf(1)


async def _on(house: House, engine: Engine, who: Principal, **facts: Any) -> Result:
    return await house.pipeline(engine, **facts).run(house.request(PDF), who)


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER)
async def test_what_is_asked_otherwise_is_read_anew(
    house: House, other: Callable[[House, Engine], Any]
) -> None:
    """R12, for the organisation."""
    engine = failing.Scripted(GOOD)
    await house.read(engine, PDF)
    await other(house, engine)
    assert len(engine.tasks) == 2


async def test_after_a_failed_page_only_that_page_is_read(house: House) -> None:
    broken = failing.Refusing({4}, PageFailed)
    with pytest.raises(PageFailed, match="page 4"):
        await house.read(broken, helpers.pages_pdf(20))
    assert sorted(broken.seen) == [*range(20)]
    (row,) = house.entries
    assert (row.outcome, row.pages, row.pages_failed) == ("failed", 19, 1)
    assert row.tokens == Usage(19, 38)
    mended = failing.Refusing(set(), PageFailed)
    result = await house.read(mended, helpers.pages_pdf(20))
    assert mended.seen == [4]
    assert [page.reused for page in result.pages] == [index != 4 for index in range(20)]
    assert result.usage == Usage(1, 2)


async def test_a_document_of_failures_is_given_up(house: House) -> None:
    broken = failing.Refusing(set(range(40)), EngineUnavailable)
    with pytest.raises(EngineUnavailable, match=r"^\d+ pages could not be read \(0, 1, 2"):
        await house.read(broken, helpers.pages_pdf(40))
    assert len(set(broken.seen)) < 20


async def test_without_a_ledger_the_first_failure_ends_the_document(house: House) -> None:
    broken = failing.Refusing({4}, PageFailed)
    with pytest.raises(PageFailed):
        await house.read(broken, helpers.pages_pdf(40), skip_cache=True)
    assert max(broken.seen) < 20


async def test_identical_documents_are_read_once(house: House) -> None:
    engine = failing.Refusing(set(), PageFailed)
    pipeline = house.pipeline(engine)
    request = house.request(helpers.pages_pdf(12))
    results = await asyncio.gather(*(pipeline.run(request, house.me) for _ in range(4)))
    assert sorted(engine.seen) == list(range(12))
    texts = [[page.markdown for page in result.pages] for result in results]
    assert texts == [[f"page {index}" for index in range(12)]] * 4
    assert sum((result.usage for result in results), Usage()) == Usage(12, 24)


async def test_who_follows_reads_by_itself_when_its_leader_leaves(house: House) -> None:
    engine = failing.Hanging(after=0)
    pipeline = house.pipeline(engine)
    request = house.request(helpers.pages_pdf(1))
    first = asyncio.create_task(pipeline.run(request, house.me))
    async with asyncio.timeout(30):
        await engine.hangs.wait()
        second = asyncio.create_task(pipeline.run(request, house.me))
        engine.hangs.clear()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await engine.hangs.wait()
    assert engine.seen == [0, 0]
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_those_who_followed_a_failure_try_at_once(house: House) -> None:
    engine = failing.Sinking()
    pipeline = house.pipeline(engine)
    request = house.request(helpers.pages_pdf(1))
    house.ledger.reading = flights = CountedFlights()
    runs = [asyncio.create_task(pipeline.run(request, house.me)) for _ in range(3)]
    async with asyncio.timeout(30):
        await engine.asked.acquire()
        for _ in range(2):
            await flights.followed.acquire()
        engine.gate.release()
        for _ in range(2):  # both ask before either is answered
            await engine.asked.acquire()
        for _ in range(2):
            engine.gate.release()
        outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [PageFailed] * 3
    assert len(engine.seen) == 3


async def test_who_leaves_after_a_page_was_read_has_paid_for_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutting = asyncio.Event()

    async def crop(*_: object, **__: object) -> list[bytes]:
        cutting.set()
        await asyncio.Event().wait()
        return []

    engine = failing.Scripted(GOOD)
    pipeline = house.pipeline(engine)
    request = house.request(helpers.two_pictures_pdf(), want_regions=True, want_images=True)
    with monkeypatch.context() as patched:
        patched.setattr(Pages, "crop", crop)  # a drawing process that is slow
        running = asyncio.create_task(pipeline.run(request, house.me))
        async with asyncio.timeout(30):
            await cutting.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    (row,) = house.entries
    assert (row.outcome, row.pages, row.tokens) == ("cancelled", 1, Usage(10, 2))
    result = await pipeline.run(request, house.me)
    assert (result.usage, len(engine.tasks)) == (Usage(), 1)
