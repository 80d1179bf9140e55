"""A run ends at its deadline, or when its file goes, wherever it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from files_api.kit.errors import DeadlineExceeded, FileNotFound
from ocr_api.pipeline.stops import Stop, Stops


async def wait(stop: Stop, gone: Callable[[], None] = lambda: None) -> None:
    """Wait for ever within the limit; ``gone`` is called before, and again at the end."""
    async with stop.limit():
        try:
            gone()
            await asyncio.Event().wait()
        finally:
            gone()


async def test_a_deadline_ends_what_is_awaited() -> None:
    stop = Stop(0.01)
    for _ in range(2):  # what comes later ends, too
        with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
            await wait(stop)


async def test_a_file_that_goes_ends_those_who_read_it_and_no_others() -> None:
    stops, one, other = Stops(), Stop(60), Stop(60)
    with stops.reading("a", one), stops.reading("b", other):
        async with asyncio.timeout(10):
            with pytest.raises(FileNotFound):
                await wait(one, lambda: stops.gone("a"))
            with pytest.raises(FileNotFound):
                await wait(one)
            async with other.limit():
                await asyncio.sleep(0)
    stops.gone("b")  # nobody reads it any more
    assert not stops._by_file


async def test_somebody_elses_timeout_stays_one() -> None:
    with pytest.raises(TimeoutError):
        async with Stop(60).limit():
            raise TimeoutError
