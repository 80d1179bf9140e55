"""Pages on their way to the database: taken at once, written many in a unit.

A page waits for `SECONDS`, or until there are `ENOUGH`. Nobody waits for the database: what cannot
be written is tried once more and then lost, which costs a page that is read again, and no more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from logging import ERROR, WARNING
from typing import Final, NamedTuple

from files_api.kit.db import Database
from files_api.kit.errors import AppError
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from ocr_api.ledger import codec, rows
from ocr_api.ledger.outage import Outage
from ocr_api.ledger.records import Kept, Place

SECONDS: Final = 0.2
ENOUGH: Final = 16
BATCH: Final = 64
"""Most pages of one unit."""
MOST: Final = 2000
"""Pages that wait; there are as many only while the database does not answer."""
MOST_BYTES: Final = 64 * 1024 * 1024
"""What those that wait may take in memory, by a rough count."""
TRIES: Final = 2
PAUSE: Final = 0.5
"""Seconds between them."""

_PAGE_BYTES, _LINE_BYTES, _TOKEN_BYTES = 1000, 400, 200  # of Python's objects, about


class _Waiting(NamedTuple):
    place: Place
    kept: Kept
    since: int
    until: int


class Queue:
    """Takes pages and writes them; `run` is the task that does."""

    def __init__(self, database: Database, outage: Outage) -> None:
        self._database = database
        self._outage = outage
        self._waiting: OrderedDict[tuple[str, str], _Waiting] = OrderedDict()
        self._writing: dict[tuple[str, str], _Waiting] = {}
        self._bytes = 0
        self._dropped = 0
        self._any, self._many = asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()

    def put(self, place: Place, kept: Kept, since: int, until: int) -> None:
        """Take a page that holds from ``since`` until ``until``, in unix seconds.

        Where too many wait it is dropped; the log tells how many were, with the next batch.
        """
        name, size = (place.org_id, place.key), _size(kept)
        self._take(name)
        if len(self._waiting) >= MOST or self._bytes + size > MOST_BYTES:
            self._dropped += 1
            return
        self._waiting[name] = _Waiting(place, kept, since, until)
        self._bytes += size
        self._signal()

    def find(self, org_id: str, key: str, now: int) -> Kept | None:
        """Return an organisation's page that is not written yet."""
        name = (org_id, key)
        found = self._waiting.get(name) or self._writing.get(name)
        return found.kept if found and found.until > now else None

    async def run(self) -> None:
        """Write what comes, until cancelled; a batch that is begun is finished then."""
        while True:
            await self._any.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    await self._many.wait()
            async with self._turn:
                await self._write_some()

    async def drain(self, *, patient: bool = True) -> None:
        """Write all that waits now.

        Args:
            patient: whether the rest is tried, too, after some could not be written.
        """
        async with self._turn:
            for _ in range(0, len(self._waiting), BATCH):
                if not await self._write_some() and not patient:
                    self._log_lost(len(self._waiting))
                    for name in list(self._waiting):
                        self._take(name)
                    return

    @asynccontextmanager
    async def without(self, goes: Callable[[Place], bool]) -> AsyncIterator[None]:
        """Remove those that wait and ``goes`` holds for; nothing is written inside the block."""
        async with self._turn:
            for name in [name for name, one in self._waiting.items() if goes(one.place)]:
                self._take(name)
            yield

    async def _write_some(self) -> bool:
        """Write one batch; tell whether that went well."""
        names = [name for name, _ in zip(self._waiting, range(BATCH), strict=False)]
        self._writing = {name: one for name in names if (one := self._take(name))}
        if self._dropped:
            log(__name__, "ledger_pages_dropped", level=WARNING, pages=self._dropped)
            self._dropped = 0
        if not self._writing:
            return True  # they were removed meanwhile
        try:
            return await finished(self._store(list(self._writing.values())))
        except Exception as error:  # noqa: BLE001 - the task must live, and reading go on
            log(__name__, "ledger_failed", level=ERROR, error=type(error).__name__)
            self._log_lost(len(self._writing))
            return False
        finally:
            self._writing = {}

    async def _store(self, batch: Sequence[_Waiting]) -> bool:
        # In a thread: a page with a probability for each token takes milliseconds.
        sheets = await asyncio.to_thread(_sheets, batch)
        if len(sheets) < len(batch):
            log(__name__, "ledger_pages_unfit", level=WARNING, pages=len(batch) - len(sheets))
        for again in range(TRIES):
            await asyncio.sleep(PAUSE if again else 0)
            try:
                await rows.write(self._database, sheets)
            except AppError as error:
                self._outage.note(error)
            else:
                self._outage.over()
                return True
        self._log_lost(len(sheets))
        return False

    def _take(self, name: tuple[str, str]) -> _Waiting | None:
        one = self._waiting.pop(name, None)
        if one:
            self._bytes -= _size(one.kept)
            self._signal()
        return one

    def _signal(self) -> None:
        for event, enough in ((self._any, 1), (self._many, ENOUGH)):
            if len(self._waiting) >= enough:
                event.set()
            else:
                event.clear()

    @staticmethod
    def _log_lost(pages: int) -> None:
        if pages:
            log(__name__, "ledger_pages_lost", level=WARNING, pages=pages)


def _sheets(batch: Sequence[_Waiting]) -> list[rows.Sheet]:
    """Return what is to be written; pages that cannot be said in JSON are left out."""
    sheets = []
    for place, kept, since, until in batch:
        with suppress(TypeError):
            sheets.append(rows.Sheet(place, codec.encode(kept), since, until))
    return sheets


def _size(kept: Kept) -> int:
    reading = kept.reading
    pieces = _LINE_BYTES * len(reading.lines) + _TOKEN_BYTES * len(reading.tokens)
    return _PAGE_BYTES + len(reading.text) + pieces
