"""Asking servers that run the same model: another one, or again, when one does not answer.

Why here and not in the engine: an engine reads one page once; how often is the pipeline's affair.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from files_api.kit.errors import AppError, EngineUnavailable, PageFailed
from ocr_api.result import Reading

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before further rounds, at most: each is drawn between 0 and this (full jitter, so that
pages that were refused together do not come back together)."""

Ask = Callable[[str | None], Awaitable[Reading]]
"""Asks the server at a base URL; None for an embedded engine."""


async def on_replicas(
    urls: Sequence[str], start: int, ask: Ask, pauses: Sequence[float] = PAUSES
) -> Reading:
    """Return the first answer.

    A server that is away or busy is passed over for the next one, and all are asked again after
    each pause. One that fails over the page is asked once more, or another one is. Nothing else is
    repeated: what a server refuses, it would refuse again.

    Args:
        urls: base URLs of the replicas; none for an embedded engine, which is asked once.
        start: the replica to begin with; pages begin with different ones.
        ask: the question.
        pauses: longest seconds before each further round.

    Raises:
        AppError: the last failure.
    """
    if not urls:
        return await ask(None)
    first = start % len(urls)
    order = [*urls[first:], *urls[:first]]
    failures = 0
    last: AppError = EngineUnavailable()
    for pause in (0.0, *pauses):
        if pause:
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter is no secret
        for url in order:
            try:
                return await ask(url)
            except EngineUnavailable as error:
                last = error
            except PageFailed as error:
                failures += 1
                last = error
                if failures > 1:
                    raise
    raise last
