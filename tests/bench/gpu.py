"""Pages per second with a simulated H100, over the same requests sent to it directly.

The stand-in for vLLM plays LightOnOCR-2 on an H100: it runs 192 pages at a time and serves 5.7 a
second. Its steps are made ``SPEED`` times as fast, so that a run takes 40 s. No faster: 11 pages
a second are two thirds of a core for drawing and a tenth for the stand-in, which leaves two cores
room, whereas at five times the speed the machine would be measured, not Recto.

Each page's length is drawn from its picture, so both sides wait for the same answers. The seed is
one that draws no answer beyond the card's longest: Recto would ask for such a page once more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import uvloop

from model_registry.card import Card, read_cards
from ocr_api.engines import PageTask
from ocr_api.engines.vllm.body import parts
from ocr_api.pages import Pages
from ocr_api.processes import Limits
from tests.bench import client, documents, fake, server
from tests.bench.table import Row

PAGES = 400
SPEED = 2
PLACES = 192
_OPTIONS = ("--mode", "gpu", "--preset", "lightonocr-h100", "--speed", str(SPEED), "--seed", "2")

Measured = tuple[float, float]
"""Pages a second as the client sees them, and the mean number of requests that ran."""


def measure(folder: Path) -> list[Row]:
    """Send 400 pages directly, as one document, and as 400 documents."""
    if fake.is_absent("pages per second with a simulated H100"):
        return []
    whole = documents.text(PAGES)
    path = folder / "gpu.pdf"
    path.write_bytes(whole)
    prepared = uvloop.run(_prepared(path))
    single = [server.asking(documents.text(1, page), fake.CARD) for page in range(PAGES)]
    chunks = ("--stream-chunks", "15")
    with (
        fake.running("--model", fake.CARD, *_OPTIONS, *chunks) as (base, _),
        server.running(folder / "gpu", **server.at(base)) as (recto, _),
    ):
        server.read(recto, documents.fresh(documents.text(2)), fake.CARD)  # starts the children
        direct = _run(base, lambda: _direct(base, prepared))
        one = _run(base, lambda: _through(recto, [server.asking(whole, fake.CARD)]))
        many = _run(base, lambda: _through(recto, single))
    return [
        *_rows(f"{PAGES} pages in one document", one, direct),
        *_rows(f"{PAGES} documents of one page", many, direct),
    ]


def _rows(what: str, ours: Measured, bare: Measured) -> list[Row]:
    figures = ("pages/s", "mean requests running at the server")
    return [
        Row(
            f"{figure}, simulated H100 at {SPEED} times its speed, {what}",
            f"{ours[place]:.2f}",
            f"{bare[place]:.2f}",
            f"{ours[place] / bare[place]:.3f}",
            "≥ .97",
        )
        for place, figure in enumerate(figures)
    ]


def _run(base: str, work: Callable[[], Awaitable[None]]) -> Measured:
    fake.forget(base)

    async def timed() -> float:
        begun = time.perf_counter()
        await work()
        return time.perf_counter() - begun

    seconds = uvloop.run(timed())
    counted = fake.stats(base)
    assert counted["completed"] == PAGES, counted
    return PAGES / seconds, counted["mean_running"]


async def _through(recto: str, bodies: list[bytes]) -> None:
    async with client.session(recto) as opened:
        await asyncio.gather(*(client.ask_well(opened, body) for body in bodies))


async def _direct(base: str, bodies: list[bytes]) -> None:
    """Send all of them at once and read what comes, as a client would that knows no limit."""

    async def one(opened: aiohttp.ClientSession, body: bytes) -> None:
        async with opened.post("/v1/chat/completions", data=body) as response:
            assert response.status == 200
            assert (await response.read()).rstrip().endswith(b"[DONE]")

    async with client.session(base) as opened:
        await asyncio.gather(*(one(opened, body) for body in bodies))


async def _prepared(path: Path) -> list[bytes]:
    """Return the body that Recto sends for each page."""
    cards = read_cards(server.ROOT / "configs" / "models")
    [card] = [card for card in cards if card.id == fake.CARD]
    pages = Pages(2, Limits(memory_bytes=2 << 30, seconds=30), 100_000_000)
    try:
        return [await _body(pages, path, index, card) for index in range(PAGES)]
    finally:
        await pages.close()


async def _body(pages: Pages, path: Path, index: int, card: Card) -> bytes:
    page = await pages.draw(path, "application/pdf", index, card.drawn())
    task = PageTask(page=page, card=card, sampling=card.sampling)
    return b"".join(parts(task, page.jpeg, card.max_tokens or 4096))
