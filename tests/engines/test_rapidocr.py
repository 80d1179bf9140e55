"""The CPU engine in its worker processes: what it reads, and how it fails."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from files_api.kit.errors import EngineUnavailable, PageFailed
from model_registry.card import Card, read_cards
from ocr_api.engines import PageTask, Supplies, rapidocr
from ocr_api.engines.rapidocr import RapidOcr, believed, believed_turn
from ocr_api.pages import DrawnPage, Pages
from ocr_api.parsers.layout import Layout
from ocr_api.processes import Limits, Pool
from ocr_api.result import Line, Reading

ROOT = Path(__file__).resolve().parents[2]
CARD = next(card for card in read_cards(ROOT / "configs" / "models") if card.id == "rapidocr")
PAGE = DrawnPage(3, 8, 8, 72, b"no JPEG", blank=False, pictures=())
GOOD = ["a line", [0.1, 0.2, 0.3, 0.25], 0.9876]


def make_pool(entry: str, memory_bytes: int) -> Pool:
    """Return a pool of one child, as the service would."""
    return Pool(entry, 1, Limits(memory_bytes, 60.0))


def instead(entry: str) -> Callable[[str, int], Pool]:
    """Return a maker of pools whose children run another entry."""
    return lambda _, memory_bytes: make_pool(f"tests.engines.children:{entry}", memory_bytes)


@pytest.fixture
async def engine() -> AsyncIterator[RapidOcr]:
    """The engine with its own children."""
    engine = RapidOcr(Supplies(make_pool))
    await engine.start()
    yield engine
    await engine.close()


async def fails(entry: str, error: type[Exception], card: Card = CARD) -> str:
    """Return the message of the error that a child with this entry leads to."""
    engine = RapidOcr(Supplies(instead(entry)))
    try:
        with pytest.raises(error) as caught:
            await engine.read(PageTask(page=PAGE, card=card))
    finally:
        await engine.close()
    return str(caught.value)


def words(text: str) -> set[str]:
    """Return the words of a text in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def few_lines() -> Image.Image:
    """Return a small page of print."""
    image = Image.new("RGB", (900, 500), "white")
    draw = ImageDraw.Draw(image)
    text = ("The keeper of the lighthouse", "wrote down the weather", "every evening at nine")
    for number, line in enumerate(text):
        draw.text((60, 60 + 120 * number), line, "black", ImageFont.load_default(48))
    return image


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
async def test_a_turned_page_is_read_upright(engine: RapidOcr, degrees: int) -> None:
    """A page that stands on its head came back as rubbish, one on its side in reversed order."""
    out = io.BytesIO()
    # Pillow turns anticlockwise: so the page must be turned clockwise by as much to be read.
    few_lines().rotate(degrees, expand=True).save(out, "JPEG")
    size = (500, 900) if degrees % 180 else (900, 500)
    page = DrawnPage(0, *size, 150, out.getvalue(), blank=False, pictures=())
    reading = await engine.read(PageTask(page=page, card=CARD))
    assert reading.turned == degrees
    markdown = Layout().parse(reading, ()).markdown
    order = [markdown.find(word) for word in ("keeper", "lighthouse", "weather", "nine")]
    assert order == sorted(order)
    assert order[0] >= 0
    first = reading.lines[0].box
    assert abs(first.left - 60 / 900) < 0.02
    assert first.bottom < 0.4


@pytest.mark.parametrize(
    "header", [{"turned": 45}, {"turned": "90"}, {"turned": True}, {"turned": None}]
)
def test_a_turn_that_is_none_is_not_believed(header: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="quarters"):
        believed_turn(header)


async def test_it_reads_the_demo_scan(engine: RapidOcr) -> None:
    pages = Pages(1, Limits(2 << 30, 60.0), 50_000_000)
    try:
        scan = ROOT / "docs" / "demo" / "scan.pdf"
        page = await pages.draw(scan, "application/pdf", 0, CARD.render)
    finally:
        await pages.close()
    reading = await engine.read(PageTask(page=page, card=CARD))
    truth = (ROOT / "docs" / "demo" / "scan.txt").read_text("utf-8").split("\f")[0]
    markdown = Layout().parse(reading, page.pictures).markdown
    expected = words(truth)
    assert len(expected & words(markdown)) / len(expected) >= 0.97
    assert reading.text == ""
    assert (reading.usage.prompt_tokens, reading.usage.completion_tokens) == (0, 0)
    assert all(0.5 <= line.confidence <= 1 for line in reading.lines)
    assert all(line.confidence == round(line.confidence, 4) for line in reading.lines)
    _check_boxes(reading)
    _check_layout(markdown)


def _check_boxes(reading: Reading) -> None:
    def box_of(start: str) -> Line:
        return next(line for line in reading.lines if line.text.startswith(start))

    title = box_of("Minutes of the Annual").box
    assert 0.20 < title.left < 0.25
    assert 0.76 < title.right < 0.80
    assert 0.06 < title.top < title.bottom < 0.12
    # The scan is turned by half a degree: a bounding box would be a third higher than this.
    full = box_of("Miss Agathe").box
    assert full.bottom - full.top < 0.022
    assert box_of("Summer fair").box.bottom < box_of("Balance carried").box.top


def _check_layout(markdown: str) -> None:
    assert markdown.startswith("# Minutes of the Annual Meeting\n\nFriends of the Village")
    assert "\n\n## Report of the Librarian\n\nMiss Agathe Lefèvre reported" in markdown
    assert "\n- two reading lamps for the window seats;\n" in markdown
    assert "Summer fair 612.45  \nGifts and legacies 275.00" in markdown


async def test_a_narrow_strip_is_read_within_the_memory(engine: RapidOcr) -> None:
    strip = Image.new("L", (70, 1754), 255)
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size=22)
    for row, text in enumerate(["Lamp", "Oil", "Stove"]):
        pen.text((5, 40 + 600 * row), text, 0, font=font)
    held = io.BytesIO()
    strip.save(held, "JPEG")
    page = DrawnPage(0, 70, 1754, 150, held.getvalue(), blank=False, pictures=())
    lines = (await engine.read(PageTask(page=page, card=CARD))).lines
    assert [line.text for line in lines] == ["Lamp", "Oil", "Stove"]
    assert [round(line.box.top, 1) for line in lines] == [0.0, 0.4, 0.7]
    assert all(line.box.right > 0.4 for line in lines)


async def test_it_says_how_many_pages_it_reads_at_once(engine: RapidOcr) -> None:
    assert engine.places == 1


async def test_what_is_no_picture_fails_and_the_child_lives(engine: RapidOcr) -> None:
    for _ in range(2):
        with pytest.raises(PageFailed, match=r"Page 3 .*could not be read: no_image"):
            await engine.read(PageTask(page=PAGE, card=CARD))


async def test_a_child_that_is_killed_twice_is_not_the_pages_fault() -> None:
    """Two kills from outside, as the kernel's when memory is short, may be tried again."""
    assert "was killed" in await fails("is_killed", EngineUnavailable)


async def test_a_child_that_dies_fails_the_page() -> None:
    assert "Page 3 (counted from 0) ended the CPU engine's process twice" in await fails(
        "dies", PageFailed
    )


async def test_a_child_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    engine = RapidOcr(Supplies(instead("dies_once")))
    page = replace(PAGE, jpeg=str(tmp_path / "died").encode())
    reading = await engine.read(PageTask(page=page, card=CARD))
    await engine.close()
    assert [line.text for line in reading.lines] == ["a line"]
    assert (tmp_path / "died").exists()


async def test_a_child_that_takes_too_long_is_killed() -> None:
    card = CARD.model_copy(update={"page_seconds": 0.2})
    assert "longer than 0.2 seconds" in await fails("sleeps", PageFailed, card)


async def test_a_child_out_of_memory_fails_the_page() -> None:
    assert "memory" in await fails("eats", PageFailed)


async def test_children_that_cannot_start_are_no_fault_of_the_page() -> None:
    assert "cannot start" in await fails("is_not_there", EngineUnavailable)
    assert "cannot start" in await fails("has_no_models", EngineUnavailable)


async def test_answers_of_a_child_are_checked() -> None:
    assert "makes no sense" in await fails("lies", PageFailed)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b"[[1, [0, 0, 1, 1], 1]]",
        b'[["a", [0, 0, 1], 1]]',
        b'[["a", [0, 0, 1, "1"], 1]]',
        b'[["a", [0, 0, 1, true], 1]]',
        b'[["a", [0, 0, 1, NaN], 1]]',
        b'[["a", [0, 0, 1, 1e999], 1]]',
        b'[["a", [0, 0, 1, 1], null]]',
        b'[["a", [0, 0, 1, 1]]]',
        b'["abc"]',
        json.dumps([["a" * 4001, [0, 0, 1, 1], 1]]).encode(),
        json.dumps([GOOD] * 4001).encode(),
        b'[["a", [0, 0, 1, 1' + b"0" * 400 + b"], 1]]",
    ],
)
def test_nonsense_is_not_believed(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        believed(answer)


def test_sense_is_believed_and_cut_to_the_page() -> None:
    (line,) = believed(json.dumps([["é", [-1, 0.5, 2, 0.4], 1.5]]).encode())
    assert line.text == "é"
    assert (line.box.left, line.box.top, line.box.right, line.box.bottom) == (0, 0.4, 1, 0.5)
    assert line.confidence == 1.0


def test_rectangles_of_turned_lines() -> None:
    child = pytest.importorskip("ocr_api.engines.rapidocr.child", exc_type=ImportError)
    level = [[10, 20], [110, 20], [110, 40], [10, 40]]
    assert child.rectangle(level, 200, 100) == [0.05, 0.2, 0.55, 0.4]
    slightly = [[10, 18], [110, 22], [110, 42], [10, 38]]
    assert child.rectangle(slightly, 200, 100) == [0.05, 0.2, 0.55, 0.4]
    upright = [[10, 80], [10, 20], [30, 20], [30, 80]]
    assert child.rectangle(upright, 200, 100) == [0.05, 0.2, 0.15, 0.8]
    steep = [[10, 20], [50, 40], [40, 60], [0, 40]]
    assert child.rectangle(steep, 200, 100) == [0.0, 0.2, 0.25, 0.6]


async def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RapidOcr(Supplies(make_pool))
    assert await engine.problem(CARD, None) is None

    def find(name: str) -> object | None:
        return None if name == "onnxruntime" else util.find_spec(name)

    monkeypatch.setattr(rapidocr, "find_spec", find)
    problem = await engine.problem(CARD, None)
    assert problem is not None
    assert "lacks onnxruntime" in problem
    assert "`cpu`" in problem
    await engine.close()


async def test_a_cancelled_read_leaves_the_engine_usable() -> None:
    engine = RapidOcr(Supplies(instead("answers_late")))
    reading = asyncio.ensure_future(engine.read(PageTask(page=PAGE, card=CARD)))
    await asyncio.sleep(0.1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    found = await engine.read(PageTask(page=PAGE, card=CARD))
    assert [line.text for line in found.lines] == ["a line"]
    await engine.close()
