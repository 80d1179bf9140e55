"""Organisations and keys for tests: made as `recto keys create` makes them, on any database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import event

from files_api.accounts import Organisations, OrgLimits, OrgRecord
from files_api.keys import Keys
from files_api.kit.db import Database
from ocr_api import migrations

SECRET = "the tests' own master secret 0123456789"
USUAL = ("files:read", "files:write", "ocr")


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """What an operator has: the organisations and the keys of one database."""

    database: Database
    organisations: Organisations
    keys: Keys
    clock: Clock

    async def org(self, name: str, limits: OrgLimits | None = None) -> OrgRecord:
        return await self.organisations.create(name, limits)

    async def key(
        self, org: OrgRecord, *scopes: str, service: bool = False, expires_at: int | None = None
    ) -> str:
        """Return the text of a new key."""
        _, text = await self.keys.make(
            org, scopes=scopes or USUAL, service=service, expires_at=expires_at
        )
        return text

    def another_process(self, secret: str = SECRET, previous: str | None = None) -> Keys:
        """Return keys as another process sees them: the same rows, nothing remembered."""
        before = previous.encode() if previous else None
        return Keys(self.database, secret.encode(), before, self.clock)


@asynccontextmanager
async def desk(database_url: str, secret: str = SECRET) -> AsyncIterator[Desk]:
    """Open a database at the newest revision."""
    database, clock = Database(database_url), Clock()
    try:
        await migrations.upgrade(database)
        keys = Keys(database, secret.encode(), clock=clock)
        yield Desk(database, Organisations(database, clock), keys, clock)
        await keys.close()
    finally:
        await database.close()


class Statements:
    """Counts the statements that reach a database, whoever sends them."""

    def __init__(self, database: Database) -> None:
        self.selects = 0
        self.updates = 0
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *facts: object) -> None:
        words = str(facts[2]).split(maxsplit=1)
        self.selects += words[0] == "SELECT" and "api_keys" in words[1]
        self.updates += words[0] == "UPDATE"
