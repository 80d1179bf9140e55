"""Identical pages in flight are read once, whoever is cancelled."""

from __future__ import annotations

import asyncio

from ocr_api.ledger import Flights, Kept
from ocr_api.result import Reading

KEY = "0" * 64


def page(text: str = "read") -> Kept:
    return Kept(Reading(text), 100, 200, 72, False, ())


async def waiting(flights: Flights, many: int = 3) -> list[asyncio.Task[Kept | None]]:
    """Return followers that have all begun to wait."""
    tasks = [asyncio.create_task(flights.follow(KEY)) for _ in range(many)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


async def test_followers_get_what_the_leader_found_before_it_leaves() -> None:
    flights = Flights()
    assert not flights.is_flying(KEY)
    with flights.lead(KEY) as landing:
        assert flights.is_flying(KEY)
        assert not flights.is_flying("other")
        tasks = await waiting(flights)
        landing.land(page())
        landing.land(page("a second word"))
        assert await asyncio.gather(*tasks) == [page()] * 3
        assert await flights.follow(KEY) == page()
    assert not flights.is_flying(KEY)
    assert await flights.follow(KEY) is None


async def test_followers_go_on_with_none_where_the_leader_fails() -> None:
    flights = Flights()
    leading = flights.lead(KEY)
    leading.__enter__()
    tasks = await waiting(flights)
    assert not leading.__exit__(KeyError, KeyError(), None)  # what was raised goes on
    assert await asyncio.gather(*tasks) == [None] * 3
    assert not flights.is_flying(KEY)
    with flights.lead(KEY):
        tasks = await waiting(flights)
    assert await asyncio.gather(*tasks) == [None] * 3


async def test_a_cancelled_leader_lets_followers_go_on() -> None:
    flights, led = Flights(), asyncio.Event()

    async def lead() -> None:
        with flights.lead(KEY):
            led.set()
            await asyncio.Event().wait()

    leader = asyncio.create_task(lead())
    await led.wait()
    tasks = await waiting(flights)
    leader.cancel()
    assert await asyncio.gather(*tasks) == [None] * 3
    assert not flights.is_flying(KEY)
    assert leader.cancelled()


async def test_a_cancelled_follower_hurts_nobody() -> None:
    flights = Flights()
    with flights.lead(KEY) as landing:
        first, second, third = await waiting(flights)
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        landing.land(page())
        assert [await first, await third] == [page(), page()]


async def test_a_follower_may_lead_next() -> None:
    """All followers of a failed leader try to; each page has one leader that others follow."""
    flights, reads = Flights(), []

    async def read(name: int) -> Kept | None:
        while flights.is_flying(KEY):
            if found := await flights.follow(KEY):
                return found
        with flights.lead(KEY) as landing:
            await asyncio.sleep(0)
            reads.append(name)
            if name < 2:
                return None
            landing.land(page())
        return page()

    answers = await asyncio.gather(*(read(name) for name in range(10)))
    assert answers == [None, None, *[page()] * 8]
    assert reads == [0, 1, 2]


async def test_a_second_leader_takes_no_followers() -> None:
    """Who skips the ledger reads for itself."""
    flights = Flights()
    with flights.lead(KEY) as first:
        (task,) = await waiting(flights, 1)
        with flights.lead(KEY) as second:
            second.land(page("second"))
        assert flights.is_flying(KEY)
        assert not task.done()
        first.land(page("first"))
        assert await task == page("first")
    assert not flights.is_flying(KEY)


async def test_an_outer_leader_that_leaves_first_takes_its_own() -> None:
    flights = Flights()
    outer, inner = flights.lead(KEY), flights.lead(KEY)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    with flights.lead(KEY) as third:
        inner.__exit__(None, None, None)
        assert flights.is_flying(KEY)
        third.land(page())
        assert await flights.follow(KEY) == page()
