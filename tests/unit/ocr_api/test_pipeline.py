"""The page story with engines that fail on purpose: order, window, errors, usage."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from files_api.accounts import Principal
from files_api.kit.errors import EngineUnavailable, PageFailed
from model_registry.card import Card
from model_registry.registry import Registry
from model_registry.routing import Routes
from ocr_api.documents import Documents
from ocr_api.engines import Engine, PageTask
from ocr_api.offline import NoFiles
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.pages import Pages
from ocr_api.pipeline import Pipeline, RequestLimits, in_order
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Reading, Usage
from ocr_api.scheduler import Scheduler
from ocr_api.usage import Entry
from tests import helpers
from tests.engines import failing

ME = Principal("org")
CARD = {
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
}


Make = Callable[[Engine], Pipeline]


@pytest.fixture
def make(tmp_path: Path, pages: Pages, entries: list[Entry]) -> Make:
    async def record(principal: Principal, entry: Entry) -> None:
        assert principal is ME
        entries.append(entry)

    def build(engine: Engine) -> Pipeline:
        registry = Registry([Card.model_validate(CARD)], Routes(default="m"))
        documents = Documents(
            NoFiles(), Outbound(OutboundLimits(max_bytes=1)), tmp_path, 10_000_000, helpers.room()
        )
        engines = {"any": engine}
        return Pipeline(
            *(registry, engines, documents, pages, record, Scheduler(engines)),
            limits=RequestLimits(pages=50),
        )

    return build


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., OcrRequest]:
    def build(count: int, **options: object) -> OcrRequest:
        path = tmp_path / "document.pdf"
        path.write_bytes(helpers.pages_pdf(count))
        return OcrRequest(PathSource(path), options=OcrOptions(**options), id="r1")  # type: ignore[arg-type]

    return build


async def test_pages_come_in_order_though_engines_do_not(
    make: Make, request_of: Callable[..., OcrRequest], entries: list[Entry]
) -> None:
    engine = failing.Backwards(3)
    result = await make(engine).run(request_of(9), ME)
    assert [page.markdown for page in result.pages] == [f"page {n}" for n in range(9)]
    assert engine.finished != sorted(engine.finished)
    assert engine.most_at_once == 3
    assert result.usage == Usage(9, 18)
    (entry,) = entries
    assert (entry.outcome, entry.pages, entry.tokens, entry.card) == ("ok", 9, Usage(9, 18), "m")
    assert entry.document_bytes == result.document_bytes


async def test_a_failed_page_fails_the_document_and_stops_the_rest(
    make: Make, request_of: Callable[..., OcrRequest], entries: list[Entry]
) -> None:
    engine = failing.Refusing({4}, PageFailed)
    with pytest.raises(PageFailed):
        await make(engine).run(request_of(20), ME)
    assert max(engine.seen) <= 4 + 3
    assert (entries[0].outcome, entries[0].pages) == ("failed", 4)


async def test_allow_partial_keeps_what_worked(
    make: Make, request_of: Callable[..., OcrRequest], entries: list[Entry]
) -> None:
    engine = failing.Refusing({1}, EngineUnavailable)
    result = await make(engine).run(request_of(3, allow_partial=True), ME)
    assert [bool(page.error) for page in result.pages] == [False, True, False]
    assert (entries[0].outcome, entries[0].pages) == ("partial", 2)


async def test_a_caller_that_leaves_stops_the_work(
    make: Make, request_of: Callable[..., OcrRequest], entries: list[Entry]
) -> None:
    engine = failing.Hanging(after=5)
    work = asyncio.create_task(make(engine).run(request_of(40), ME))
    await engine.hangs.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert engine.running == 0
    assert max(engine.seen) <= 5 + 3
    assert (entries[0].outcome, entries[0].pages) == ("cancelled", 5)


async def test_a_crash_of_an_engine_is_recorded_as_a_failure(
    make: Make, request_of: Callable[..., OcrRequest], entries: list[Entry]
) -> None:
    with pytest.raises(ZeroDivisionError):
        await make(failing.Refusing({0}, ZeroDivisionError)).run(request_of(2), ME)
    assert entries[0].outcome == "failed"


async def test_a_truncated_page_says_so(make: Make, request_of: Callable[..., OcrRequest]) -> None:
    result = await make(failing.Truncating()).run(request_of(1), ME)
    assert [warning.code for warning in result.pages[0].warnings] == ["truncated"]


async def test_doubtful_pages_say_so(make: Make, request_of: Callable[..., OcrRequest]) -> None:
    result = await make(failing.Mumbling()).run(request_of(2), ME)
    codes = [[warning.code for warning in page.warnings] for page in result.pages]
    assert codes == [["nothing_read"], []]


async def test_a_turned_page_has_the_size_and_pictures_of_the_turned_page(
    make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "pictures.pdf"
    path.write_bytes(helpers.two_pictures_pdf())
    options = OcrOptions(want_regions=True, want_images=True)
    request = OcrRequest(PathSource(path), options=options)
    (upright,) = (await make(failing.Truncating()).run(request, ME)).pages
    (turned,) = (await make(failing.Turning()).run(request, ME)).pages
    assert (turned.width, turned.height) == (upright.height, upright.width)
    assert [warning.code for warning in turned.warnings] == ["turned"]
    for region, before in zip(turned.regions, upright.regions, strict=True):
        assert region.box == before.box.turned(90)
        assert region.image
        with Image.open(io.BytesIO(region.image)) as crop:
            left, top, right, bottom = region.box.pixels(turned.width, turned.height)
            assert crop.size == (right - left, bottom - top)
            assert crop.height > crop.width
    with Image.open(io.BytesIO(turned.regions[0].image or b"")) as crop:
        red, _, blue = crop.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert red > 180
        assert blue < 100


async def test_an_engine_with_one_place_is_asked_one_page_at_a_time(
    make: Make, request_of: Callable[..., OcrRequest]
) -> None:
    engine = failing.Refusing(set(), PageFailed)
    engine.places = 1
    result = await make(engine).run(request_of(9), ME)
    assert [page.markdown for page in result.pages] == [f"page {n}" for n in range(9)]
    assert engine.most_at_once == 1


async def test_a_large_document_does_not_keep_a_small_one_from_being_drawn(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARD, "pages_in_flight", 60)
    engine = failing.Scripted(Reading("read"))
    pipeline = make(engine)
    for name, count in (("large", 50), ("small", 1)):
        (tmp_path / name).write_bytes(helpers.pages_pdf(count))
    large, small = (OcrRequest(PathSource(tmp_path / name), id=name) for name in ("large", "small"))
    reading = asyncio.create_task(pipeline.run(large, ME))
    async with asyncio.timeout(60):
        await engine.asked.wait()
        await pipeline.run(small, ME)
        await reading
    order = [task.request_id.split("-")[0] for task in engine.tasks]
    assert len(order) == 51
    assert order.index("small") < 20


async def test_in_order_leaves_nothing_running_after_a_break() -> None:
    running: set[int] = set()

    async def work(item: int) -> int:
        running.add(item)
        try:
            await asyncio.sleep(0 if item < 2 else 3600)
        finally:
            running.discard(item)
        return item

    stream = in_order(range(100), work, 4)
    assert [await anext(stream), await anext(stream)] == [0, 1]
    await stream.aclose()
    assert running == set()


class _Nothing(Engine):
    async def read(self, task: PageTask) -> Reading:
        raise AssertionError(f"page {task.page.index} is blank and must not be read")


async def test_a_blank_page_never_reaches_the_engine(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "blank.pdf"
    path.write_bytes(helpers.blank_pdf())
    result = await make(_Nothing(failing.no_pool)).run(OcrRequest(PathSource(path)), ME)
    assert result.pages[0].markdown == ""
