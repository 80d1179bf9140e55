"""How the engine of model servers uses its connections, and what a busy server may tell it."""

from __future__ import annotations

import asyncio

import pytest

from files_api.kit.errors import EngineBusy, EngineUnavailable
from ocr_api.engines.vllm import Vllm
from tests.engines.fake_server import plain, serving
from tests.engines.test_vllm import GOOD, Fake, engine, fake, task

__all__ = ["engine", "fake"]

MANY = 200


# --- busy servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Retry-After: 7\r\n", 7),
        ("Retry-After: 0.4\r\n", 1),
        ("Retry-After:  12 \r\n", 12),
        ("Retry-After: 86400\r\n", 120),
        ("Retry-After: Fri, 31 Dec 2027 23:59:59 GMT\r\n", EngineBusy.retry_after),
        ("Retry-After: nan\r\n", EngineBusy.retry_after),
        ("Retry-After: -3\r\n", EngineBusy.retry_after),
        ("Retry-After: \u0663\r\n", EngineBusy.retry_after),
        ("", EngineBusy.retry_after),
    ],
)
async def test_a_busy_server_says_when_to_come_back(
    engine: Vllm, status: str, said: str, seconds: int
) -> None:
    """R14: the server's wish reaches the one who repeats, and never as a day."""
    async with serving(plain(b"{}", status, extra=said)) as server:
        with pytest.raises(EngineBusy) as caught:
            await engine.read(task(server.url))
    assert caught.value.retry_after == seconds
    assert caught.value.headers()["Retry-After"] == str(seconds)


async def test_only_a_busy_server_is_believed(engine: Vllm) -> None:
    async with serving(plain(b"", "502 Bad Gateway", extra="Retry-After: 90\r\n")) as server:
        with pytest.raises(EngineUnavailable) as caught:
            await engine.read(task(server.url))
    assert caught.value.retry_after == EngineUnavailable.retry_after


# --- connections ----------------------------------------------------------------------------------


async def test_many_pages_at_once_use_the_connections_of_those_before(engine: Vllm) -> None:
    async with serving(GOOD) as server:
        for _ in range(3):
            readings = await asyncio.gather(*(engine.read(task(server.url)) for _ in range(MANY)))
            assert {reading.text for reading in readings} == {"# Heading"}
            first = min(request.connection for request in server.requests[-MANY:])
            assert first <= MANY
        assert len(server.requests) == 3 * MANY
        assert server.connections <= MANY


@pytest.mark.shared
async def test_pages_that_are_given_up_reach_the_server(engine: Vllm, fake: Fake) -> None:
    """R21: of pages in flight only those that were cancelled end, and at once."""
    await fake.fault("do=hang,at=0.5")
    reads = [asyncio.create_task(engine.read(task(fake.url))) for _ in range(8)]
    async with asyncio.timeout(5):
        while (await fake.stats())["running"] < len(reads):
            pass
    for read in reads[:5]:
        read.cancel()
    await asyncio.gather(*reads[:5], return_exceptions=True)
    async with asyncio.timeout(1):
        while (found := await fake.stats())["aborted"] < 5:
            pass
    assert (found["aborted"], found["in_flight"]) == (5, 3)
    for read in reads[5:]:
        read.cancel()
    await asyncio.gather(*reads[5:], return_exceptions=True)
    assert all(read.cancelled() for read in reads)
