"""Work at a time, results in order: one waiter for a turn, a window of results, nothing left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from ocr_api.pipeline.order import WAITING, Started, in_turn

COUNT = 2 * WAITING
"""Works of a bench."""


class Bench:
    """Works that wait for turns, which the test hands out."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.turns = asyncio.Semaphore(0)
        self.ends = [asyncio.Event() for _ in range(COUNT)]

    async def work(self, number: int, started: Started) -> str:
        try:
            self.waiting.append(number)
            await self.turns.acquire()
            self.waiting.remove(number)
            started()
            self.begun.append(number)
            await self.ends[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return f"done {number}"

    def stream(self, window: int = COUNT) -> AsyncGenerator[str, None]:
        return in_turn(range(COUNT), self.work, window)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_so_many_at_most_wait_for_turns() -> None:
    bench = Bench()
    async with aclosing(bench.stream()) as stream:
        first = asyncio.ensure_future(anext(stream))
        await settle()
        assert (bench.waiting, bench.begun) == ([*range(WAITING)], [])
        bench.turns.release()
        bench.turns.release()
        await settle()
        assert (bench.waiting, bench.begun) == ([*range(2, WAITING + 2)], [0, 1])
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert sorted(bench.cancelled) == [*range(WAITING + 2)]


async def test_results_come_in_order_and_a_slow_one_holds_no_more_than_a_window() -> None:
    bench = Bench()
    for _ in range(COUNT):
        bench.turns.release()
    for number in range(1, COUNT):
        bench.ends[number].set()
    async with aclosing(bench.stream(window=4)) as stream:
        first = asyncio.ensure_future(anext(stream))
        await settle()
        assert bench.begun == [0, 1, 2, 3]
        bench.ends[0].set()
        assert await first == "done 0"
        assert [text async for text in stream] == [f"done {number}" for number in range(1, COUNT)]


async def test_an_error_cancels_the_rest() -> None:
    bench = Bench()

    async def work(number: int, started: Started) -> str:
        if number == 1:
            started()
            raise ValueError("one")
        return await bench.work(number, started)

    bench.turns.release()
    bench.ends[0].set()
    async with aclosing(in_turn(range(3), work, 3)) as stream:
        assert await anext(stream) == "done 0"
        await settle()
        assert bench.waiting == [2]
        with pytest.raises(ValueError, match="one"):
            await anext(stream)
    assert bench.cancelled == [2]
