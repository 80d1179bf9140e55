"""A page that goes wrong is asked again as its card says, and never returned as a success."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from files_api.accounts import Principal
from files_api.kit.errors import (
    AppError,
    ContextTooLong,
    EngineBusy,
    EngineTimeout,
    EngineUnavailable,
    PageFailed,
    SchemaRefused,
)
from model_registry.card import Card
from model_registry.registry import Registry
from model_registry.routing import Routes
from ocr_api.documents import Documents
from ocr_api.engines import Engine
from ocr_api.offline import NoFiles
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.pages import Pages
from ocr_api.pipeline import Pipeline
from ocr_api.pipeline.tries import CHARS_BASE
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Page, Reading, Result, Usage
from ocr_api.scheduler import Scheduler
from ocr_api.usage import Entry
from tests import helpers
from tests.engines.failing import Scripted

ME = Principal("org")
CARD: dict[str, Any] = {
    "id": "m",
    "engine": "any",
    "parser": "plain",
    "name": "n",
    "description": "d",
    "licence": "MIT",
    "source": "s",
    "prompts": {"document": "Read.", "plain": "Free."},
    "sampling": {"temperature": 0, "top_p": 1, "repetition_penalty": 1.1},
    "max_tokens": 1000,
    "context": 4000,
    "vision": {"rule": "patches", "side": 28, "rounding": "up", "max_tokens": 2000},
    "render": {"edge": 280},
    "retries": [
        {"sampling": {"temperature": 0.2}},
        {"sampling": {"temperature": 0.5}, "scale": 0.5},
        {"prompt": "plain"},
        {"turn": 90},
    ],
}
GOOD = Reading("Good.", usage=Usage(10, 2))
LOOP = Reading("Start. " + "again " * 60, usage=Usage(10, 100), finish_reason="repetition")
URL = "http://one/v1"


Read = Callable[..., Any]


@pytest.fixture
def read(tmp_path: Path, pages: Pages, entries: list[Entry]) -> Read:
    async def record(principal: Principal, entry: Entry) -> None:
        entries.append(entry)

    async def run(
        engine: Engine, *, urls: tuple[str, ...] = (URL,), facts: Any = None, **options: Any
    ) -> Result:
        card = Card.model_validate({**CARD, **(facts or {})})
        registry = Registry([card], Routes(default="m"), urls={"m": urls})
        outbound = Outbound(OutboundLimits(max_bytes=1))
        documents = Documents(NoFiles(), outbound, tmp_path, 10_000_000, helpers.room())
        path = tmp_path / "document.pdf"
        path.write_bytes(helpers.pages_pdf(1))
        engines = {"any": engine}
        scheduler = Scheduler(engines, pauses=(0, 0, 0))
        pipeline = Pipeline(registry, engines, documents, pages, record, scheduler)
        request = OcrRequest(PathSource(path), options=OcrOptions(**options), id="r1")
        return await pipeline.run(request, ME)

    return run


def only(result: Result) -> Page:
    (page,) = result.pages
    return page


async def test_a_good_answer_is_asked_for_once(read: Read) -> None:
    engine = Scripted(GOOD)
    page = only(await read(engine))
    assert (page.markdown, page.warnings, page.usage) == ("Good.", (), Usage(10, 2))
    (task,) = engine.tasks
    assert (task.prompt, task.url, task.request_id) == ("Read.", URL, "r1-p0-t0")
    assert task.sampling.temperature == 0
    assert task.schema is None
    assert not task.want_probabilities
    assert task.max_chars is not None
    assert task.max_chars >= CHARS_BASE


async def test_the_ladder_is_climbed_as_the_card_says(read: Read) -> None:
    engine = Scripted(LOOP, LOOP, LOOP, LOOP, GOOD)
    page = only(await read(engine))
    assert page.markdown == "Good."
    assert (page.usage, page.wasted) == (Usage(10, 2), Usage(40, 400))
    assert [warning.code for warning in page.warnings] == ["asked_again", "turned"]
    assert "4 times: it repeated itself" in page.warnings[0].message
    assert [task.sampling.temperature for task in engine.tasks] == [0, 0.2, 0.5, 0, 0]
    assert all(task.sampling.top_p == 1 for task in engine.tasks)
    assert [task.prompt for task in engine.tasks] == ["Read."] * 3 + ["Free.", "Read."]
    assert [task.request_id for task in engine.tasks] == [f"r1-p0-t{n}" for n in range(5)]
    sizes = [(task.page.width, task.page.height) for task in engine.tasks]
    assert sizes == [(198, 280), (198, 280), (99, 140), (198, 280), (280, 198)]
    for task in engine.tasks:
        with Image.open(io.BytesIO(task.page.jpeg)) as image:
            assert image.size == (task.page.width, task.page.height)
    assert (page.width, page.height) == (280, 198)


async def test_a_loop_in_every_try_is_never_a_success(read: Read, entries: list[Entry]) -> None:
    engine = Scripted(LOOP)
    with pytest.raises(PageFailed, match=r"Page 0 .* in each of 5 tries \(it repeated itself\)"):
        await read(engine)
    assert (entries[0].outcome, entries[0].tokens) == ("failed", Usage())
    assert entries[0].wasted == Usage(50, 500)
    page = only(await read(Scripted(LOOP), allow_partial=True))
    assert page.error is not None
    assert (page.usage, page.wasted) == (Usage(), Usage(50, 500))
    assert page.markdown.startswith("Start.")


@pytest.mark.parametrize("finish", ["stop", "length"])
async def test_a_loop_that_the_engine_did_not_see_is_found(read: Read, finish: str) -> None:
    engine = Scripted(Reading("word " * 100, finish_reason=finish), GOOD)
    assert only(await read(engine)).markdown == "Good."
    assert len(engine.tasks) == 2


async def test_an_implausible_length_is_asked_again(read: Read) -> None:
    engine = Scripted(Reading("much", finish_reason="implausible"), GOOD)
    page = only(await read(engine))
    assert "longer than the page can hold" in page.warnings[0].message


async def test_a_cut_answer_gets_more_room_once(read: Read) -> None:
    engine = Scripted(Reading("cut", usage=Usage(5, 1000), finish_reason="length"), GOOD)
    page = only(await read(engine))
    assert (page.markdown, page.usage, page.wasted) == ("Good.", Usage(10, 2), Usage(5, 1000))
    assert [warning.code for warning in page.warnings] == ["asked_again"]
    assert "once: it ran out of room" in page.warnings[0].message
    image = 8 * 10  # 198 x 280 pixels in squares of 28
    assert [task.max_tokens for task in engine.tasks] == [1000, 4000 - image - 64 - 2]
    cut = Reading("cut", finish_reason="length")
    engine = Scripted(cut)
    page = only(await read(engine))
    assert len(engine.tasks) == 2
    assert [warning.code for warning in page.warnings] == ["asked_again", "truncated"]


async def test_the_context_bounds_the_answer(read: Read) -> None:
    engine = Scripted(Reading("cut", finish_reason="length"))
    await read(engine, facts={"context": 500})
    assert [task.max_tokens for task in engine.tasks] == [500 - 80 - 64 - 2]
    with pytest.raises(ContextTooLong):
        await read(Scripted(GOOD), prompt="x" * 8000)


async def test_a_prompt_of_the_callers_own_is_kept_on_the_ladder(read: Read) -> None:
    engine = Scripted(LOOP, LOOP, LOOP, LOOP, GOOD)
    await read(engine, prompt="Only dates")
    assert {task.prompt for task in engine.tasks} == {"Only dates"}
    assert {task.max_chars for task in engine.tasks} == {None}


async def test_a_replica_that_does_not_answer_is_passed_over(read: Read) -> None:
    engine = Scripted(EngineUnavailable(), GOOD)
    await read(engine, urls=("http://one/v1", "http://two/v1"))
    assert [task.url for task in engine.tasks] == ["http://one/v1", "http://two/v1"]
    away = Scripted(EngineUnavailable())
    with pytest.raises(EngineUnavailable):
        await read(away, urls=("http://one/v1", "http://two/v1"))
    assert len(away.tasks) == 4 * 2


async def test_a_busy_server_is_asked_again(read: Read) -> None:
    engine = Scripted(EngineBusy(), EngineUnavailable(), GOOD)
    assert only(await read(engine)).markdown == "Good."
    assert len(engine.tasks) == 3


async def test_a_page_that_fails_is_asked_once_more(read: Read) -> None:
    assert only(await read(Scripted(PageFailed(), GOOD))).markdown == "Good."
    engine = Scripted(PageFailed())
    with pytest.raises(PageFailed):
        await read(engine)
    assert len(engine.tasks) == 2


@pytest.mark.parametrize("error", [ContextTooLong, EngineTimeout, SchemaRefused])
async def test_what_would_be_refused_again_is_not_repeated(
    read: Read, error: type[AppError]
) -> None:
    engine = Scripted(error())
    with pytest.raises(error):
        await read(engine)
    assert len(engine.tasks) == 1


async def test_what_two_tries_say_alike_stands_on_the_page(read: Read) -> None:
    rows = Reading("Zeros\n\n" + "| 0 | 0 | 0 |\n" * 30)
    engine = Scripted(rows)
    page = only(await read(engine))
    assert page.error is None
    assert page.markdown.count("| 0 | 0 | 0 |") == 30
    assert len(engine.tasks) == 2
    looped = Scripted(Reading(rows.text, finish_reason="length"))
    with pytest.raises(PageFailed):
        await read(looped)


async def test_tokens_of_tries_before_a_failure_are_counted(
    read: Read, entries: list[Entry]
) -> None:
    result = await read(Scripted(LOOP, ContextTooLong()), allow_partial=True)
    assert only(result).error is not None
    assert (result.usage, entries[0].wasted) == (Usage(), Usage(10, 100))


async def test_a_page_that_the_model_calls_turned_is_read_upright(read: Read) -> None:
    matter = "---\nprimary_language: en\nis_rotation_valid: False\nrotation_correction: {}\n---\n"
    engine = Scripted(Reading(matter.format(90) + "odd"), Reading(matter.format(90) + "right"))
    page = only(await read(engine, facts={"parser": "qwen"}))
    assert (page.markdown, page.width, page.height) == ("right", 280, 198)
    assert [warning.code for warning in page.warnings] == ["asked_again", "turned"]
    assert len(engine.tasks) == 2


async def test_a_page_that_turning_does_not_help_is_read_as_it_was(read: Read) -> None:
    matter = "---\nis_rotation_valid: False\nrotation_correction: 90\n---\n"
    engine = Scripted(Reading(matter + "upright"), LOOP)
    page = only(await read(engine, facts={"parser": "qwen"}))
    assert (page.markdown, page.error, page.height) == ("upright", None, 280)
    assert [task.page.width for task in engine.tasks] == [198, 280, 280, 140, 280]
    recovered = Scripted(Reading(matter + "upright"), LOOP, Reading(matter + "read"))
    page = only(await read(recovered, facts={"parser": "qwen"}))
    assert (page.markdown, page.width) == ("read", 280)


async def test_probabilities_are_asked_for_when_the_card_has_them(read: Read) -> None:
    able = {"capabilities": {"confidence": ["page", "word"]}}
    for granularity, wanted in (("word", True), ("block", False), (None, False)):
        engine = Scripted(GOOD)
        await read(engine, facts=able, confidence=granularity)
        assert [task.want_probabilities for task in engine.tasks] == [wanted]
