"""``Idempotency-Key``: a POST that is sent again does one thing, and is answered the same."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession

from files_api.accounts import Principal
from files_api.kit.db import Database

InUnit = Callable[[AsyncSession], Awaitable[None]]
"""Work to be done in the same unit as the thing itself, so that both happen or neither."""


class Idempotency:
    """Claims keys, remembers answers; one for the process."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def claim(self, principal: Principal, route: str, key: str) -> Claim:
        """Begin a request with a key, or find what it answered.

        Raises:
            IdempotencyKeyBusy: a request with this key is being worked on.
        """
        raise NotImplementedError

    async def sweep(self) -> int:
        """Remove the keys that are older than a day; return how many."""
        return 0


class Claim:
    """One request with a key."""

    answer: str | None
    """The JSON that was answered to the first request; None when this is the first."""

    def check(self, fingerprint: str) -> None:
        """Raise `IdempotencyKeyReused` when the first request asked for something else."""

    def finish(self, fingerprint: str, answer: str) -> InUnit:
        """Return what remembers the answer; it raises when the claim was taken over meanwhile."""
        raise NotImplementedError

    async def release(self) -> None:
        """Let the key be used again: the request failed. A failure is logged, not raised."""
