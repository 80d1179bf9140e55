"""Work that must not be left half-way when its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

Answer = TypeVar("Answer")


async def finished(work: Awaitable[Answer]) -> Answer:
    """Return what the work gives; when cancelled, wait for its end first, then be cancelled.

    Why: a thread cannot be cancelled. Closing a file while a thread still writes to it, or
    deciding whether a commit happened while it happens, would go wrong.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen; otherwise asyncio logs it as never retrieved
        raise
