"""Annotation inside the page story: what it costs, and who pays for what was of no use."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from files_api.accounts import Principal
from files_api.kit.errors import AnnotationFailed
from model_registry.card import Card
from model_registry.registry import Registry
from model_registry.routing import Route, Routes, Target
from ocr_api.documents import Documents
from ocr_api.engines import Engine, PageTask, Question, Supplies
from ocr_api.offline import NoFiles
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.pages import Pages
from ocr_api.pipeline import Pipeline
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Reading, Usage
from ocr_api.scheduler import Scheduler
from ocr_api.usage import Entry
from tests import helpers
from tests.engines import failing

ME = Principal("org")
URLS = ("http://one/v1", "http://two/v1")
CARD: dict[str, Any] = {
    "id": "m",
    "engine": "any",
    "parser": "plain",
    "name": "n",
    "description": "d",
    "licence": "MIT",
    "source": "s",
    "render": {"edge": 200},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
GOOD = '{"a": "b"}'


class Scripted(Engine):
    """Reads every page alike, and answers from a script; None in it is an answer never given."""

    def __init__(self, *script: str | None) -> None:
        super().__init__(Supplies(failing.no_pool))
        self.script = list(script)
        self.urls: Counter[str | None] = Counter()
        self.waits = asyncio.Event()

    async def read(self, task: PageTask) -> Reading:
        self.urls[task.url] += 1
        return Reading(text=f"Page {task.page.index}", usage=Usage(1, 2))

    async def ask(self, question: Question) -> Reading:
        self.urls[question.url] += 1
        answer = self.script.pop(0) if self.script else GOOD
        if answer is None:
            self.waits.set()
            await asyncio.Event().wait()
        return Reading(text=answer or "", usage=Usage(10, 20))


Make = Callable[[Engine, str], Pipeline]


@pytest.fixture
def make(tmp_path: Path, pages: Pages, entries: list[Entry]) -> Make:
    async def record(principal: Principal, entry: Entry) -> None:
        entries.append(entry)

    def build(engine: Engine, by: str) -> Pipeline:
        card = Card.model_validate({**CARD, "annotation": {"by": by, "trained": True}})
        route = Route(targets=(Target(card="m", urls=URLS),))
        registry = Registry([card], Routes(default="m", routes={"m": route}))
        limits = OutboundLimits(max_bytes=1)
        documents = Documents(NoFiles(), Outbound(limits), tmp_path, 10_000_000, helpers.room())
        engines = {"any": engine}
        scheduler = Scheduler(engines, pauses=())
        return Pipeline(registry, engines, documents, pages, record, scheduler)

    return build


def request(tmp_path: Path, document: bytes, **options: Any) -> OcrRequest:
    path = tmp_path / "document.pdf"
    path.write_bytes(document)
    return OcrRequest(PathSource(path), options=OcrOptions(**options), id="r1")


@pytest.mark.parametrize("by", ["prompt", "chat"])
async def test_bad_annotations_are_paid_for(
    make: Make, tmp_path: Path, entries: list[Entry], by: str
) -> None:
    asked = request(tmp_path, helpers.pages_pdf(1), annotation_format=FORMAT)
    with pytest.raises(AnnotationFailed):
        await make(Scripted("no", "no"), by).run(asked, ME)
    row = entries[0]
    assert (row.outcome, row.tokens + row.wasted) == ("failed", Usage(21, 42))
    # Without a ledger a page that is not given is of no use to anybody.
    assert row.tokens == (Usage() if by == "prompt" else Usage(1, 2))


@pytest.mark.parametrize("by", ["prompt", "chat"])
async def test_who_leaves_pays_for_what_was_answered(
    make: Make, tmp_path: Path, entries: list[Entry], by: str
) -> None:
    engine = Scripted("no", None)
    asked = request(tmp_path, helpers.pages_pdf(1), annotation_format=FORMAT)
    running = asyncio.ensure_future(make(engine, by).run(asked, ME))
    await engine.waits.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    row = entries[0]
    assert (row.outcome, row.tokens + row.wasted) == ("cancelled", Usage(11, 22))


async def test_pages_and_document_add_up(make: Make, tmp_path: Path, entries: list[Entry]) -> None:
    options = {"annotation_format": FORMAT, "region_annotation_format": FORMAT}
    document = helpers.two_pictures_pdf()
    asked = request(tmp_path, document, want_regions=True, **options)
    result = await make(Scripted(), "chat").run(asked, ME)
    (page,) = result.pages
    assert page.usage == Usage(21, 42)
    assert result.usage == entries[0].tokens == Usage(31, 62)
    assert [region.image for region in page.regions] == [None, None]
    assert json.loads(result.annotation or "") == {"a": "b"}


async def test_pages_are_spread_over_the_replicas(make: Make, tmp_path: Path) -> None:
    engine = Scripted()
    asked = request(tmp_path, helpers.pages_pdf(6), annotation_format=FORMAT)
    await make(engine, "prompt").run(asked, ME)
    assert engine.urls == dict.fromkeys(URLS, 6)  # each is read, and asked about
