"""Identical pages in flight: one request reads, the others wait for what it finds. One process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ocr_api.ledger.records import Kept


class LeaderFailedError(Exception):
    """Who read the page could not."""


class Landing:
    """What a leader holds."""

    def __init__(self, found: asyncio.Future[Kept | None]) -> None:
        self._found = found

    def land(self, kept: Kept) -> None:
        """Give the page to the followers, at once; the first call counts."""
        if not self._found.done():
            self._found.set_result(kept)

    def fail(self) -> None:
        """Tell the followers that the page cannot be read: each may try by itself."""
        if not self._found.done():
            self._found.set_exception(LeaderFailedError())
            self._found.exception()  # seen, where nobody follows


class Flights:
    """The pages that are being read now, by their keys, which hold the organisation."""

    def __init__(self) -> None:
        self._flying: dict[str, asyncio.Future[Kept | None]] = {}

    def is_flying(self, key: str) -> bool:
        """Tell whether somebody reads this page now."""
        return key in self._flying

    async def follow(self, key: str) -> Kept | None:
        """Wait for a page that somebody else reads.

        Returns:
            The page; None when its leader left, or when nobody reads it.

        Raises:
            LeaderFailedError: it could not be read.
        """
        found = self._flying.get(key)
        # Shielded: a follower that is cancelled takes nothing from the others.
        return None if found is None else await asyncio.shield(found)

    @contextmanager
    def lead(self, key: str) -> Iterator[Landing]:
        """Read a page, inside the block; leaving it without landing tells the followers None.

        Where somebody leads already, the block leads nobody: followers stay with the first.
        """
        found: asyncio.Future[Kept | None] = asyncio.get_running_loop().create_future()
        first = self._flying.setdefault(key, found) is found
        try:
            yield Landing(found)
        finally:
            if first:
                del self._flying[key]
            if not found.done():
                found.set_result(None)
