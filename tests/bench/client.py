"""Many requests at a time: an HTTP client that does little, and takes the time of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.bench.table import percentile

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """How a request went."""

    status: int
    """0 where the connection broke."""
    seconds: float
    body: bytes
    ended: float
    """By the clock of `time.monotonic`."""


@asynccontextmanager
async def session(base: str, key: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a pool of connections to a server, as many as there are requests."""
    headers = JSON if key is None else {**JSON, "Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(
        base,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        headers=headers,
    ) as opened:
        yield opened


async def ask(opened: aiohttp.ClientSession, body: bytes, path: str = "/v1/ocr") -> Answer:
    """Send one request and wait for the whole answer."""
    begun = time.monotonic()
    status, said = 0, b""
    try:
        async with opened.post(path, data=body) as response:
            said = await response.read()
            status = response.status
    except (aiohttp.ClientError, OSError):
        pass
    ended = time.monotonic()
    return Answer(status, ended - begun, said, ended)


async def ask_well(opened: aiohttp.ClientSession, body: bytes, path: str = "/v1/ocr") -> Answer:
    """Send one request that must succeed."""
    answer = await ask(opened, body, path)
    assert answer.status == 200, (answer.status, answer.body[:500])
    return answer


async def in_turns(
    opened: aiohttp.ClientSession, bodies: Iterable[bytes], at_once: int
) -> list[Answer]:
    """Send requests, so many at a time; return the answers. All must succeed."""
    left, answers = iter(bodies), list[Answer]()

    async def one() -> None:
        for body in left:
            answers.append(await ask_well(opened, body))

    await asyncio.gather(*(one() for _ in range(at_once)))
    return answers


async def until_page(opened: aiohttp.ClientSession, body: bytes) -> float:
    """Return the seconds until a streamed answer's first page is there; then leave."""
    begun = time.perf_counter()
    async with opened.post("/v1/ocr", data=body) as response:
        assert response.status == 200, (await response.read())[:500]
        async for line in response.content:
            assert not line.startswith(b"event: error"), line
            if line.startswith(b"event: page"):
                return time.perf_counter() - begun
    raise AssertionError("the answer had no page")


def p95(answers: list[Answer]) -> float:
    """Return the seconds that 95 of 100 requests were not above."""
    return percentile([answer.seconds for answer in answers], 95)
