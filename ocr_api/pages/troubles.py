"""What documents cost that kill the processes that draw them: a bound for each document.

Why: a page that overruns takes a process for its whole time. A document of a thousand such pages
would take hours, and in the meantime every process from the documents of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MOST_DEATHS = 3
"""Pages of one document that may kill their process; then its other pages are not drawn."""
LATER_SHARE = 0.2
"""Seconds of a page after the first death, as a share of those of any page: all deaths of a
document, one after the other, take little longer than one."""
_MOST_KEPT = 256


class GivenUp(Exception):
    """The document killed too many processes already; the page was not tried."""


class Troubles:
    """Documents that are drawn now, and the newest that killed a process since they were counted.

    Args:
        places: processes that draw; so many pages of one document are drawn at a time.
        seconds: that one page may take.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self._places = places
        self._seconds = seconds
        self._kept: dict[str, _Record] = {}  # the oldest first

    def forget(self, document: str) -> None:
        """Forget what the document did: somebody begins to read it, perhaps with a better end."""
        self._kept.pop(document, None)

    def died(self, document: str) -> None:
        """Note that a page of the document, whose turn it is, killed its process."""
        record = self._kept.get(document)
        if record is not None:  # else somebody began to read it anew
            record.deaths += 1

    @asynccontextmanager
    async def turn(self, document: str) -> AsyncIterator[float]:
        """Give the seconds that one page may take, while the context is open.

        A document without a death may have every process at a time; one with a death has one,
        so that the others are free, and its pages have less time.

        Raises:
            GivenUp: it had too many deaths.
        """
        record = self._record(document)
        record.users += 1
        try:
            async with record.gate:
                if not record.deaths:
                    yield self._seconds
                    return
                async with record.alone:
                    if record.deaths >= MOST_DEATHS:
                        raise GivenUp
                    yield self._seconds * LATER_SHARE
        finally:
            record.users -= 1
            if not record.users and not record.deaths and self._kept.get(document) is record:
                del self._kept[document]

    def _record(self, document: str) -> _Record:
        record = self._kept.get(document)
        if record is None:
            for old in [name for name, one in self._kept.items() if not one.users][:-_MOST_KEPT]:
                del self._kept[old]
            record = self._kept[document] = _Record(asyncio.Semaphore(self._places))
        return record


@dataclass(slots=True, eq=False)
class _Record:
    """What is known of one document."""

    gate: asyncio.Semaphore
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    """Pages that are drawn or wait."""
    deaths: int = 0
