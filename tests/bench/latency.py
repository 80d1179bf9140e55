"""How long one waits while others work: first pages, one-page requests, small organisations.

The stand-in for vLLM takes half a second for every page, and the card has 16 pages in flight.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import takewhile
from pathlib import Path

import aiohttp
import uvloop

from tests.bench import client, documents, fake, server
from tests.bench.table import Row
from tests.e2e.conftest import make_key

SECONDS, PLACES = 0.5, 16
_OPTIONS = ("--mode", "fixed", "--delay", str(SECONDS), "--max-num-seqs", str(PLACES))
_SECRET = {"SECRET_KEY": "a master secret of the bench 0123456789"}

LONG = 1000
CLIENTS, IDLE = 4, 120
"""Clients that send one-page requests, each one after the other; requests while idle."""
QUEUED, SMALL = 10, 40
"""Long documents of the large organisation; pages of the small one's document."""


def measure(folder: Path) -> list[Row]:
    """Measure all three."""
    if fake.is_absent("waiting while others work"):
        return []
    return [_first_page(folder), _one_page(folder), _small_organisation(folder)]


@contextmanager
def _running(folder: Path, **settings: str) -> Iterator[tuple[str, str]]:
    """Run both servers; give the address of the stand-in and ours."""
    with fake.running("--model", fake.CARD, *_OPTIONS, "--stream-chunks", "15") as (base, _):
        settings = {**server.with_places(folder, fake.CARD, PLACES, base), **settings}
        with server.running(folder, **settings) as (recto, _):
            yield base, recto


# --- the first page of a stream ------------------------------------------------------------------


def _first_page(folder: Path) -> Row:
    whole = documents.text(500)
    with _running(folder / "first") as (_, recto):
        server.read(recto, documents.fresh(documents.text(4)), fake.CARD)  # starts the children
        taken = [uvloop.run(_until_page(recto, whole)) for _ in range(5)]
    ours = statistics.median(taken)
    return Row(
        "ms to the first streamed page of 500, over the engine's time",
        f"{ours * 1000:.0f}",
        f"{SECONDS * 1000:.0f}",
        f"+{(ours - SECONDS) * 1000:.0f} ms",
        "< +300 ms",
    )


async def _until_page(recto: str, document: bytes) -> float:
    body = server.asking(documents.fresh(document), fake.CARD, stream=True)
    async with client.session(recto) as opened:
        return await client.until_page(opened, body)


# --- one-page requests beside a long document ----------------------------------------------------


def _one_page(folder: Path) -> Row:
    with _running(folder / "beside") as (base, recto):
        server.read(recto, documents.fresh(documents.text(4)), fake.CARD)
        idle, busy = uvloop.run(_beside(base, recto))
    return Row(
        f"p95 of one-page requests, ms, beside a document of {LONG:,} pages, over idle",
        f"{client.p95(busy) * 1000:.0f}",
        f"{client.p95(idle) * 1000:.0f}",
        f"{client.p95(busy) / client.p95(idle):.2f}",
        "≤ 1.5",
    )


async def _beside(base: str, recto: str) -> tuple[list[client.Answer], list[client.Answer]]:
    body = server.asking(documents.text(LONG), fake.CARD)
    async with client.session(recto) as opened:
        idle = await client.in_turns(opened, _singles(IDLE), CLIENTS)
        long = asyncio.ensure_future(client.ask_well(opened, body))
        await _until_full(base)
        pages = takewhile(lambda _: not long.done(), _singles(10_000))
        busy = await client.in_turns(opened, pages, CLIENTS)
        await long
    return idle, busy


def _singles(count: int) -> Iterator[bytes]:
    page = documents.text(1)
    return (server.asking(documents.fresh(page), fake.CARD) for _ in range(count))


async def _until_full(base: str) -> None:
    """Wait until the stand-in has as many pages as it can work on."""
    end = time.monotonic() + 60
    while (await asyncio.to_thread(fake.stats, base))["running"] < PLACES:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


# --- a small organisation beside a large one -----------------------------------------------------


def _small_organisation(folder: Path) -> Row:
    folder = folder / "organisations"
    folder.mkdir()
    keys = [make_key(folder / "server", name, **_SECRET) for name in ("large", "small")]
    with _running(folder, **_SECRET) as (base, recto):
        solo, beside = uvloop.run(_organisations(base, recto, *keys))
    bound = 2 * solo + SECONDS
    return Row(
        f"s to a small organisation's last of {SMALL} pages while another queues"
        f" {QUEUED * LONG:,}, over 2 x alone ({solo:.2f}) + one page",
        f"{beside:.2f}",
        f"{bound:.2f}",
        f"{beside / bound:.2f}",
        "≤ 1",
    )


async def _organisations(base: str, recto: str, large: str, small: str) -> tuple[float, float]:
    pages = documents.text(SMALL)

    async def read(opened: aiohttp.ClientSession) -> float:
        body = server.asking(documents.fresh(pages), fake.CARD)
        return (await client.ask_well(opened, body)).seconds

    async with client.session(recto, small) as opened:
        await read(opened)  # starts the children
        solo = statistics.median([await read(opened) for _ in range(3)])
        async with _queueing(recto, large):
            await _until_full(base)
            await asyncio.sleep(2)  # until the last of the long documents is queued, too
            return solo, statistics.median([await read(opened) for _ in range(3)])


@asynccontextmanager
async def _queueing(recto: str, key: str) -> AsyncIterator[None]:
    """Have long documents read for an organisation; leave them in the end."""
    long = documents.text(LONG)
    bodies = [server.asking(documents.fresh(long), fake.CARD) for _ in range(QUEUED)]
    async with client.session(recto, key) as opened:
        tasks = [asyncio.ensure_future(client.ask_well(opened, body)) for body in bodies]
        try:
            yield
            assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
