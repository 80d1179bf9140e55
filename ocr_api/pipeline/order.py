"""Work on many things at a time, and give the results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")
Started = Callable[[], None]
"""Says that a work no longer waits for its turn, so that another one may ask for one."""
WAITING = 16
"""Works that may wait for turns at a time. Where many turns come free within a moment, whoever
had only one waiting would get one of them, whatever its share."""


async def in_order(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Done]], window: int
) -> AsyncGenerator[Done, None]:
    """Yield ``work(item)`` for each item, in order, with at most ``window`` of them under way.

    Leaving early, or an error in one, cancels the rest; nothing is left running.
    """

    def at_once(item: Item, started: Started) -> Awaitable[Done]:
        started()
        return work(item)

    async with aclosing(in_turn(items, at_once, window)) as stream:
        async for done in stream:
            yield done


async def in_turn(
    items: Iterable[Item], work: Callable[[Item, Started], Awaitable[Done]], window: int
) -> AsyncGenerator[Done, None]:
    """Yield ``work(item, started)`` for each item, in order.

    A work begins when the `WAITING`-th before it said that it has started, or ended; so only so
    many of them wait for turns, however long the document is.

    At most ``window`` are under way or done and not yet given. Leaving early, or an error in one,
    cancels the rest; nothing is left running.
    """
    room, tasks = asyncio.Semaphore(window), asyncio.Queue[asyncio.Future[Done] | None]()
    alive: set[asyncio.Future[Done]] = set()
    starts = deque[asyncio.Event]()

    async def feed() -> None:
        for item in items:
            await room.acquire()
            if len(starts) == WAITING:
                await starts.popleft().wait()
            starts.append(started := asyncio.Event())
            task = asyncio.ensure_future(work(item, started.set))
            alive.add(task)
            task.add_done_callback(lambda _, event=started: event.set())  # type: ignore[misc]
            tasks.put_nowait(task)
        tasks.put_nowait(None)

    feeder = asyncio.create_task(feed())
    try:
        while (task := await tasks.get()) is not None:
            # Not awaited itself: who leaves would cancel it first and alone, and its place at the
            # engine would go to the next page for a moment.
            await asyncio.wait({task})
            alive.discard(task)
            room.release()
            yield task.result()
    finally:
        feeder.cancel()
        for left in alive:
            left.cancel()
        await asyncio.gather(feeder, *alive, return_exceptions=True)
