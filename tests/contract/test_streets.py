"""One suite per street, run for every leaf found in it: the price of loading by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import orjson
import pytest
from fastapi import APIRouter
from hypothesis import given
from hypothesis import strategies as st

from files_api.kit import named
from files_api.kit.bodies import JsonBodies
from files_api.limits import Limits as RateLimits
from files_api.limits import Rates
from model_registry.card import Card, read_cards
from ocr_api import app, exports
from ocr_api.apis import Door, Services
from ocr_api.engines import Engine, PageTask, Supplies
from ocr_api.exports import Export
from ocr_api.pages import DrawnPage
from ocr_api.parsers import Parser
from ocr_api.processes import Limits, Pool
from ocr_api.result import Box, Line, Page, Parsed, Reading, Result, Usage, mark
from ocr_api.settings import Settings
from tests import helpers, samples

ROOT = Path(__file__).resolve().parents[2]
CARDS = {card.id: card for card in read_cards(ROOT / "configs" / "models")}
EMBEDDED = [card for card in CARDS.values() if card.embedded]


@pytest.mark.parametrize("street", [app.ENGINES, app.PARSERS, app.DOORS, exports.STREET])
def test_an_unknown_leaf_is_refused_with_the_known_ones(street: str) -> None:
    with pytest.raises(named.UnknownLeafError) as caught:
        named.leaf(street, "nothing", object)
    assert all(name in str(caught.value) for name in named.names(street))


# --- engines -------------------------------------------------------------------------------------


def make_pool(entry: str, memory_bytes: int) -> Pool:
    return Pool(entry, 1, Limits(memory_bytes=memory_bytes, seconds=60))


def drawn(jpeg: bytes, width: int, height: int) -> DrawnPage:
    return DrawnPage(0, width, height, 150, jpeg, blank=False, pictures=())


@pytest.fixture(params=EMBEDDED, ids=lambda card: card.id)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Engine, Card]]:
    card: Card = request.param
    made = named.leaf(app.ENGINES, card.engine, Engine)(Supplies(make_pool))  # type: ignore[type-abstract]
    await made.start()
    yield made, card
    await made.close()


async def test_engine_reads_a_page(engine: tuple[Engine, Card]) -> None:
    made, card = engine
    assert await made.problem(card, None) is None
    page = drawn(samples.print_jpeg((600, 300)), 600, 300)
    reading = await made.read(PageTask(page=page, card=card, prompt=card.prompts.get("document")))
    assert isinstance(reading, Reading)
    assert reading.finish_reason == "stop"
    assert reading.usage.prompt_tokens >= 0
    assert all(0 <= line.confidence <= 1 and line.box.area > 0 for line in reading.lines)


async def test_engine_may_be_closed_twice(engine: tuple[Engine, Card]) -> None:
    await engine[0].close()


def test_every_engine_has_a_card() -> None:
    assert {card.engine for card in CARDS.values()} == set(named.names(app.ENGINES))


# --- parsers -------------------------------------------------------------------------------------

share = st.floats(0, 1)
boxes = st.builds(Box.of, share, share, share, share)
lines = st.builds(Line, st.text(max_size=30), boxes, share)
notation = st.sampled_from(
    [
        "<|ref|>image<|/ref|><|det|>[[10, 20, 300, 400]]<|/det|>\n",
        "<|ref|>text<|/ref|><|det|>[[1, 2, 30, 40]]<|/det|>\n",
        "![image](image_1.png) 120,300,480,700\n",
        "![image](image_2.png)\n",
        "<img>A chart</img>",
        "```markdown\n",
        "---\nis_rotation_valid: False\nrotation_correction: 90\n---\n",
    ]
)
texts = st.lists(notation | st.text(max_size=40), max_size=12).map("".join)
readings = st.builds(Reading, text=texts, lines=st.lists(lines, max_size=12).map(tuple))


@pytest.mark.parametrize("name", named.names(app.PARSERS))
@given(reading=readings, pictures=st.lists(boxes, max_size=4).map(tuple))
def test_parser_never_raises_and_marks_each_picture_once(
    name: str, reading: Reading, pictures: tuple[Box, ...]
) -> None:
    parser = named.leaf(app.PARSERS, name, Parser)()  # type: ignore[type-abstract]
    parsed = parser.parse(reading, pictures)
    assert isinstance(parsed, Parsed)
    regions = pictures if parsed.regions is None else parsed.regions
    for number in range(len(regions)):
        assert parsed.markdown.count(mark(number)) == 1
    assert mark(len(regions)) not in parsed.markdown
    for block in parsed.blocks:
        assert block.region is None or block.region < len(regions)


@pytest.mark.parametrize("name", named.names(app.PARSERS))
def test_parser_makes_nothing_of_nothing(name: str) -> None:
    parser = named.leaf(app.PARSERS, name, Parser)()  # type: ignore[type-abstract]
    assert parser.parse(Reading(), ()).markdown == ""


# --- exports -------------------------------------------------------------------------------------

RESULT = Result(
    "id",
    "m",
    "c",
    7,
    (Page(0, 10, 20, 72, f"# Ünï\n\n{mark(0)}"), Page(2, 10, 20, 72, "Two")),
    usage=Usage(1, 2),
)


@pytest.mark.parametrize("fmt", sorted(exports.table()))
def test_export_renders_utf8_that_ends_a_line(fmt: str) -> None:
    leaf: Export = exports.table()[fmt]
    assert leaf.formats[fmt].count("/") == 1
    data = leaf.render(RESULT, fmt)
    assert data.endswith(b"\n")
    assert "Ünï" in data.decode()
    assert "\ue000" not in data.decode()


def test_text_exports() -> None:
    render = partial(exports.table()["md"].render, RESULT)
    assert render("md") == "# Ünï\n\nTwo\n".encode()
    assert render("txt") == "# Ünï\fTwo\n".encode()
    facts = orjson.loads(render("json"))
    assert [page["index"] for page in facts["pages"]] == [0, 2]
    assert facts["usage"] == {"prompt_tokens": 1, "completion_tokens": 2}


# --- doors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", named.names(app.DOORS))
def test_door_gives_routes_of_its_own(name: str, settings: Settings) -> None:
    workshop = app.Workshop(settings, None, None)  # type: ignore[arg-type]
    services = Services(
        workshop.pipeline,
        workshop.registry,
        workshop.traffic,
        checks={},
        model_checks=dict,
        routes=dict,
        bodies=JsonBodies(1000, 1000),
        max_answer_bytes=1000,
        answers=helpers.room(),
        limits=RateLimits(Rates()),
        usage=None,  # type: ignore[arg-type]
    )
    router = named.leaf(app.DOORS, name, Door)().router(services)  # type: ignore[type-abstract]
    assert isinstance(router, APIRouter)
    assert router.routes
