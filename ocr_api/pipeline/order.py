"""Work on many things at a time, and give the results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


async def in_order(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Done]], window: int
) -> AsyncGenerator[Done, None]:
    """Yield ``work(item)`` for each item, in order, with at most ``window`` of them under way.

    Leaving early, or an error in one, cancels the rest; nothing is left running.
    """
    waiting = iter(items)
    tasks: deque[asyncio.Future[Done]] = deque()
    try:
        tasks.extend(asyncio.ensure_future(work(item)) for item in islice(waiting, window))
        while tasks:
            done = await tasks[0]
            tasks.popleft()
            tasks.extend(asyncio.ensure_future(work(item)) for item in islice(waiting, 1))
            yield done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
