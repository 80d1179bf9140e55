"""How much an organisation stores: counted on its row, in the unit that stores or removes.

Why counters and not sums: two uploads that end together would both see room for one. The row is
locked from the look to the end of the unit (PostgreSQL), or there is one writer (SQLite).

What is not counted: the parts of pending uploads, which count as declared. Parts that are sent
anew come on top, so an organisation limited to N bytes may hold 2N bytes of parts, for an hour.

Expired files count until they are deleted, which is done at once where their room is needed.

Units that lock an organisation's row and rows of its own lock the organisation's first, of several
organisations in the order of their ids; so no two units wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.accounts import Principal
from files_api.kit.db import Database
from files_api.kit.errors import QuotaExceeded
from files_api.tables import Organisation


@dataclass(frozen=True, slots=True)
class Quota:
    """What an organisation may store where its row says nothing; 0 is no limit."""

    max_bytes: int = 0
    max_files: int = 0

    def of(self, organisation: Organisation) -> tuple[int, int]:
        """Return an organisation's own limits: bytes and files; 0 is no limit."""
        own_bytes, own_files = organisation.max_bytes, organisation.max_files
        return (
            self.max_bytes if own_bytes is None else own_bytes,
            self.max_files if own_files is None else own_files,
        )

    async def lock(self, session: AsyncSession, org_ids: Collection[str]) -> None:
        """Keep other units from storing or removing what these organisations have.

        Needed where a unit touches rows of an organisation before it calls `take` or `give_back`.
        """
        rows = select(Organisation.id).where(Organisation.id.in_(org_ids)).order_by(Organisation.id)
        await session.execute(rows.with_for_update(key_share=True))

    async def take(self, session: AsyncSession, org_id: str, size: int, files: int = 1) -> None:
        """Count what is about to be stored; call it in the unit that writes the row.

        Args:
            session: the unit's.
            org_id: whose.
            size: bytes; may be negative where an upload turns out smaller than declared.
            files: how many.

        Raises:
            QuotaExceeded: there is no room; roll the unit back.
        """
        query = select(Organisation).where(Organisation.id == org_id)
        # FOR NO KEY UPDATE: rows that only refer to the organisation need not wait.
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
        row = (await session.execute(query)).scalar_one()
        self._check(row, size, files)
        await _add(session, org_id, size, files)

    async def give_back(
        self, session: AsyncSession, org_id: str, size: int, files: int = 1
    ) -> None:
        """Count what is being removed; call it in the unit that deletes the row."""
        await _add(session, org_id, -size, -files)

    async def check(self, database: Database, principal: Principal, size: int) -> None:
        """Raise `QuotaExceeded` early, before ``size`` bytes are received; counts nothing."""
        async with database.read() as session:
            row = await session.get(Organisation, principal.org_id)
        if row:
            self._check(row, size, 1)

    def _check(self, row: Organisation, size: int, files: int) -> None:
        most_bytes, most_files = self.of(row)
        if most_bytes and size > 0 and row.stored_bytes + size > most_bytes:
            raise QuotaExceeded(
                f"The organisation may store {most_bytes} bytes and has {row.stored_bytes}: "
                "delete files, or have its quota raised."
            )
        if most_files and files > 0 and row.stored_files + files > most_files:
            raise QuotaExceeded(
                f"The organisation may store {most_files} files: delete some, or have its quota "
                "raised."
            )


async def _add(session: AsyncSession, org_id: str, size: int, files: int) -> None:
    await session.execute(
        update(Organisation)
        .where(Organisation.id == org_id)
        .values(
            stored_bytes=Organisation.stored_bytes + size,
            stored_files=Organisation.stored_files + files,
        )
        .execution_options(synchronize_session=False)
    )
