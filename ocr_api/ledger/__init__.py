"""The page ledger: pages that were read are kept for a time, so that nobody pays for them twice.

A page is its organisation's alone. It goes when its time has passed, and with the file that it was
read from. What the ledger cannot say or write for want of a database is read again: it never
stops a request.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from files_api.accounts import Principal
from files_api.kit.db import Database
from files_api.kit.errors import AppError
from ocr_api.ledger import codec, rows
from ocr_api.ledger.flights import Flights, Landing, LeaderFailedError
from ocr_api.ledger.lookups import Lookups
from ocr_api.ledger.outage import Outage
from ocr_api.ledger.queue import Queue
from ocr_api.ledger.records import Kept, Place, key_of

__all__ = ["Flights", "Kept", "Landing", "LeaderFailedError", "Ledger", "Place", "key_of"]

FORGOTTEN_SECONDS: Final = 60
"""How long pages of a file are refused after it was forgotten: until its row is surely gone."""
_INLINE_BYTES: Final = 64 * 1024
"""More than this of compressed pages is decoded in a thread."""

Answer = TypeVar("Answer")


class Ledger:
    """Keeps finished pages; one for the process."""

    on: bool
    """Whether pages are kept and found; forgetting and sweeping work in any case."""

    def __init__(
        self, database: Database, seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Take the database, and how long a page is kept; 0 keeps none."""
        self.on = seconds > 0
        self.reading = Flights()
        self._database = database
        self._seconds = seconds
        self._clock = clock
        self._outage = Outage()
        self._lookups = Lookups(self._ask)
        self._queue = Queue(database, self._outage)
        self._forgotten: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write what is kept, until `close`."""
        if self.on and self._task is None:
            self._task = asyncio.create_task(self._queue.run(), name="ledger")

    async def close(self) -> None:
        """Write what waits, where the database answers; call it before that is closed."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        await self._queue.drain(patient=False)

    async def known(self, org_id: str, keys: Sequence[str]) -> frozenset[str]:
        """Return which of the keys the organisation has a page for.

        `get` may find fewer: a page may go meanwhile. None while the database does not answer,
        but for those on their way there.
        """
        if not self.on:
            return frozenset()
        now = int(self._clock())
        near = {key for key in keys if self._queue.find(org_id, key, now)}
        far = [key for key in keys if key not in near]
        if far:
            near |= await self._lookups.known(org_id, far)
        return frozenset(near)

    async def get(self, org_id: str, keys: Sequence[str]) -> dict[str, Kept]:
        """Return the organisation's pages by key.

        Missing are those that are unknown, expired or unreadable, and all that are written while
        the database does not answer.
        """
        if not self.on:
            return {}
        now = int(self._clock())
        found = {key: kept for key in keys if (kept := self._queue.find(org_id, key, now))}
        far = [key for key in keys if key not in found]
        for part in rows.parts(far):
            ask = rows.fetch(self._database, org_id, part, now)
            fetched = await self._answered(ask)
            if fetched is None:
                break
            found |= await _decoded(fetched)
        # While the database was asked, somebody may have read one.
        late = ((key, self._queue.find(org_id, key, now)) for key in far if key not in found)
        return found | {key: kept for key, kept in late if kept is not None}

    async def _ask(self, org_id: str, keys: Sequence[str]) -> set[str]:
        ask = rows.known(self._database, org_id, keys, int(self._clock()))
        return await self._answered(ask) or set()

    def keep(self, place: Place, kept: Kept) -> None:
        """Keep a page: from now on it is found, and soon it is on disk.

        A page of a file that was just forgotten is not kept.
        """
        now = self._clock()
        if self.on and not self._is_forgotten(place, now):
            self._queue.put(place, kept, int(now), int(now + self._seconds))

    async def flush(self) -> None:
        """Return when all that was kept until now is on disk, or logged as lost."""
        await self._queue.drain()

    async def forget_file(self, principal: Principal, file_id: str) -> None:
        """Delete the organisation's pages of a file, and of all that has the same content.

        A hook of `files_api.files`, called before the file's row goes. A page that another process
        writes at that moment goes with `sweep`.

        Raises:
            StorageUnavailable, StorageFull: they are not deleted; the file has to stay.
        """
        org_id, now = principal.org_id, self._clock()
        self._note_forgotten(org_id, file_id, now)
        document = await rows.content_of(self._database, org_id, file_id)

        def goes(place: Place) -> bool:
            is_of = place.file_id == file_id or place.document == document
            return is_of and place.org_id == org_id

        async with self._queue.without(goes):
            await rows.forget(self._database, org_id, file_id, document)

    async def sweep(self) -> int:
        """Remove the pages that have expired or whose stored file is gone; return how many.

        Raises:
            StorageUnavailable, StorageFull: what was removed until then stays removed.
        """
        count, now = 0, int(self._clock())
        for some in (
            partial(rows.sweep_expired, self._database, now),
            partial(rows.sweep_fileless, self._database),
        ):
            while gone := await some():
                count += gone
        return count

    async def _answered(self, ask: Awaitable[Answer]) -> Answer | None:
        """Return the database's answer; None where there is none."""
        try:
            answer = await ask
        except AppError as error:
            self._outage.note(error)
            return None
        self._outage.over()
        return answer

    def _note_forgotten(self, org_id: str, file_id: str, now: float) -> None:
        name = (org_id, file_id)
        self._forgotten[name] = now
        self._forgotten.move_to_end(name)
        while not self._is_fresh(next(iter(self._forgotten.values())), now):
            self._forgotten.popitem(last=False)

    def _is_forgotten(self, place: Place, now: float) -> bool:
        since = self._forgotten.get((place.org_id, place.file_id or ""))
        return since is not None and self._is_fresh(since, now)

    @staticmethod
    def _is_fresh(since: float, now: float) -> bool:
        # A clock that was set back must not make it last.
        return 0 <= now - since < FORGOTTEN_SECONDS


async def _decoded(fetched: Sequence[tuple[str, bytes]]) -> dict[str, Kept]:
    """Return those of the pages that can be read."""

    def decode() -> dict[str, Kept]:
        pages = ((key, codec.decode(data)) for key, data in fetched)
        return {key: page for key, page in pages if page is not None}

    if sum(len(data) for _, data in fetched) > _INLINE_BYTES:
        return await asyncio.to_thread(decode)
    return decode()
