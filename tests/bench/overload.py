"""Five times as many requests as can be served, for a minute: what gets through, who is told no.

The stand-in for vLLM takes a second for a page and has 16 places, so that 16 pages a second are
its most. No faster, because 80 requests a second come, and the client that sends them needs a
core. Requests come at their times, whether or not others were answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import count, takewhile
from pathlib import Path

import aiohttp
import uvloop

from tests.bench import client, documents, fake, server
from tests.bench.processes import resident_mib
from tests.bench.table import Row, percentile

SECONDS, PLACES = 1.0, 16
CAPACITY = PLACES / SECONDS
TIMES, LASTING = 5, 60.0
BEST = 15.0
"""Seconds for which the most that gets through is measured."""
SETTLE = 2.0
"""Seconds after which answers count."""
WARM = 10.0
"""Seconds of the overload after which memory should grow no more."""
_PAGE = documents.text(1)
BOUNDS = {"MAX_REQUESTS": "64", "ORG_REQUESTS": "64"}
_OPTIONS = ("--mode", "fixed", "--delay", str(SECONDS), "--max-num-seqs", str(PLACES))


def measure(folder: Path) -> list[Row]:
    """Measure the most that gets through with as many requests as have room; then the overload."""
    if fake.is_absent("overload"):
        return []
    folder = folder / "overload"
    with fake.running("--model", fake.CARD, *_OPTIONS, "--stream-chunks", "15") as (base, _):
        settings = {**server.with_places(folder, fake.CARD, PLACES, base), **BOUNDS}
        with server.running(folder, **settings) as (recto, pid):
            return uvloop.run(_measure(recto, lambda: resident_mib(pid)))


def _rows(best: float, good: float, answers: list[client.Answer], memory: list[float]) -> list[Row]:
    statuses = {answer.status for answer in answers}
    assert statuses <= {200, 429, 503}, statuses
    refused = [answer.seconds * 1000 for answer in answers if answer.status != 200]
    what = f"overload, {TIMES * CAPACITY:.0f} requests/s for {LASTING:.0f} s"
    after, end = memory
    return [
        Row(
            f"{what}: pages/s over the most",
            f"{good:.1f}",
            f"{best:.1f}",
            f"{good / best:.2f}",
            "≥ .90",
        ),
        Row(
            f"{what}: p99 of {len(refused):,} refusals, ms (median {percentile(refused, 50):.0f})",
            f"{percentile(refused, 99):.0f}",
            "–",
            "–",
            "< 100",
        ),
        Row(
            f"{what}: RSS of the API process, MiB, at the end over after {WARM:.0f} s",
            f"{end:.0f}",
            f"{after:.0f}",
            f"{end - after:+.0f} MiB",
            "flat",
        ),
    ]


async def _measure(recto: str, memory: Callable[[], float]) -> list[Row]:
    async with client.session(recto) as opened:
        await client.ask_well(opened, _body())  # starts the children
        begun = time.monotonic()
        end = begun + BEST
        bodies = (_body() for _ in takewhile(lambda _: time.monotonic() < end, count()))
        best = _rate(await client.in_turns(opened, bodies, 2 * PLACES), begun + SETTLE, end)
        begun = time.monotonic()
        answers, seen = await _overload(opened, begun, memory)
    good = _rate(answers, begun + SETTLE, begun + LASTING)
    return _rows(best, good, answers, seen)


async def _overload(
    opened: aiohttp.ClientSession, begun: float, memory: Callable[[], float]
) -> tuple[list[client.Answer], list[float]]:
    """Send requests at their times; return the answers, and the memory at two times."""
    tasks, seen = list[asyncio.Future[client.Answer]](), list[float]()
    for number in range(int(TIMES * CAPACITY * LASTING)):
        due = begun + number / (TIMES * CAPACITY)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(client.ask(opened, _body())))
        if not seen and time.monotonic() - begun > WARM:
            seen.append(memory())
    seen.append(memory())
    return list(await asyncio.gather(*tasks)), seen


def _body() -> bytes:
    return server.asking(documents.fresh(_PAGE), fake.CARD)


def _rate(answers: list[client.Answer], begun: float, end: float) -> float:
    """Return how many answers a second ended well within this time."""
    good = sum(answer.status == 200 and begun <= answer.ended < end for answer in answers)
    return good / (end - begun)
