"""Deletes the files whose time has passed: every hour, and where their room is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from logging import WARNING
from typing import TypeVar

from files_api.accounts import Principal
from files_api.files import listing
from files_api.files.records import FileRecord, record_of
from files_api.files.spare import Spare
from files_api.kit.db import Database
from files_api.kit.errors import AppError, QuotaExceeded
from files_api.kit.observe import log

Answer = TypeVar("Answer")
DeleteHook = Callable[[Principal, str], Awaitable[None]]
"""Removes what hangs on a file; takes the caller and the file's id."""


class Expiry:
    """Finds expired files, lets go of what hangs on them, and has them removed."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        hooks: Sequence[DeleteHook],
        remove: Callable[[Sequence[FileRecord]], Awaitable[int]],
        spare: Spare,
    ) -> None:
        """Take the parts; ``hooks`` may grow later; ``remove`` tells how many it removed."""
        self._database = database
        self._clock = clock
        self._hooks = hooks
        self._remove = remove
        self._spare = spare

    async def run(self, batch: int = 100, org_id: str | None = None) -> int:
        """Remove what has expired, of one organisation or of all; return how many files.

        A file whose hook fails stays, hidden, until the next call.

        Args:
            batch: how many are removed in a unit.
            org_id: whose; None means everybody's.
        """
        count, place = 0, ""
        while records := await self._expired(place, batch, org_id):
            ready = [record for record in records if await self._let_go(record)]
            count += await self._spare.run(partial(self._remove, ready))
            place = records[-1].id
        return count

    async def with_room(
        self, principal: Principal, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Do what takes room; where there is none, once more without the expired files.

        Args:
            principal: whose room; only what is its organisation's goes.
            work: leaves nothing behind when it fails.

        Raises:
            QuotaExceeded: there is none all the same.
        """
        try:
            return await work()
        except QuotaExceeded:
            await self.run(org_id=principal.org_id)
        return await work()

    async def _expired(self, place: str, limit: int, org_id: str | None) -> list[FileRecord]:
        async with self._database.read() as session:
            query = listing.expired(self._clock(), place, limit, org_id)
            return [record_of(row) for row in (await session.execute(query)).scalars()]

    async def _let_go(self, record: FileRecord) -> bool:
        """Call the hooks of an expired file; tell whether it may go."""
        try:
            for hook in self._hooks:
                await hook(Principal(record.org_id), record.id)
        except AppError as error:
            log(__name__, "expiry_failed", level=WARNING, file_id=record.id, code=error.code)
            return False
        return True
