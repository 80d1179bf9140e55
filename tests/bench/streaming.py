"""CPU per page of a streamed answer, over a bare client that asks for the answer in one piece.

The server is the stand-in for vLLM beside the project; without it there are no rows. 915 tokens
come in 900 events (vLLM as it is) or in 15 (``--stream-interval 64``), over ten seconds, as from
a busy GPU: events that come at once would be read at once, and cost less.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

import aiohttp
import orjson
import pybase64
import uvloop

from model_registry.card import Card
from ocr_api.engines import PageTask, Supplies
from ocr_api.engines.vllm import Vllm
from ocr_api.pages import DrawnPage
from ocr_api.processes import Pool
from tests.bench import fake
from tests.bench.table import Row

AT_ONCE = 64
ROUNDS = 3
SECONDS = 10.0
CHARACTERS = 3200
JPEG = os.urandom(300_000)
CARD = Card(
    id="bench/model",
    engine="vllm",
    parser="plain",
    name="Bench",
    description="For the measurement.",
    licence="MIT",
    source="none",
)


def measure() -> list[Row]:
    """Read pages both ways, in turns; medians of the rounds."""
    if not fake.FAKE.is_file():
        print(fake.ABSENT.format(what="streamed answers"))
        return []
    bare, ours = [], []
    events = (900, 15)
    for _ in range(ROUNDS):
        with fake.running(*_options(1)) as (base, _):
            bare.append(uvloop.run(_bare(f"{base}/v1")))
        for count in events:
            with fake.running(*_options(count)) as (base, _):
                ours.append(uvloop.run(_streamed(f"{base}/v1")))
    least = statistics.median(bare)
    rows = []
    for place, count in enumerate(events):
        taken = statistics.median(ours[place :: len(events)])
        rows.append(
            Row(
                f"CPU ms per page, answer in {count} events, {AT_ONCE} at once",
                f"{taken:.1f}",
                f"{least:.1f}",
                f"+{taken - least:.1f} ms",
                "< +3 ms" if count == min(events) else "report",
            )
        )
    return rows


def _options(events: int) -> list[str]:
    options = ["--model", CARD.id, "--any-image", "--mode", "fixed", "--delay", str(SECONDS)]
    return [*options, "--stream-chunks", str(events), "--answer-chars", str(CHARACTERS)]


async def _streamed(url: str) -> float:
    def no_pool(entry: str, memory_bytes: int) -> Pool:
        raise AssertionError("this engine has no processes")

    engine = Vllm(Supplies(no_pool))
    await engine.start()
    page = DrawnPage(0, 1089, 1540, 130, JPEG, blank=False, pictures=())
    task = PageTask(page=page, card=CARD, prompt="OCR:", url=url, request_id="bench")

    async def read() -> int:
        return len((await engine.read(task)).text)

    try:
        return await _cpu_ms(read)
    finally:
        await engine.close()


async def _bare(url: str) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read() -> int:
            image = b"data:image/jpeg;base64," + pybase64.b64encode(JPEG)
            content = b'[{"type":"image_url","image_url":{"url":"' + image + b'"}}]'
            body = b'{"model":"bench/model","max_tokens":4096,"messages":[{"role":"user","content":'
            async with session.post(
                f"{url}/chat/completions", data=body + content + b"}]}"
            ) as response:
                said = orjson.loads(await response.read())
            return len(said["choices"][0]["message"]["content"])

        return await _cpu_ms(read)


async def _cpu_ms(read: Callable[[], Awaitable[int]]) -> float:
    """Return the CPU milliseconds of this process per page."""
    begun = time.process_time()
    lengths = await asyncio.gather(*(read() for _ in range(AT_ONCE)))
    taken = time.process_time() - begun
    assert min(lengths) > 0.9 * CHARACTERS, min(lengths)
    return taken / AT_ONCE * 1000
