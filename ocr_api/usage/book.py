"""Writes what was used: one row per request, many in a unit of work."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from logging import ERROR, WARNING
from typing import Final, Literal

from sqlalchemy import insert

from files_api.accounts import Principal
from files_api.kit.db import Database
from files_api.kit.errors import AppError
from files_api.kit.ids import new_id
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from ocr_api.result import Usage
from ocr_api.usage.rows import UsageRow

SECONDS: Final = 0.2
"""How long rows wait for others."""
BATCH: Final = 500
MOST: Final = 20_000
"""Rows that wait while the database is away; the oldest are then lost, and logged whole."""
PAUSE: Final = 2.0
"""Seconds before rows that the database refused are tried again."""

Outcome = Literal["ok", "partial", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What one request used."""

    request_id: str
    model: str
    card: str
    outcome: Outcome
    pages: int
    """Pages that were read, also where the request failed later."""
    tokens: Usage
    """Charged: of the answers that the pages read are made of."""
    document_bytes: int
    seconds: float
    pages_reused: int = 0
    """Pages that were read before, and not again."""
    pages_failed: int = 0
    reused: Usage = field(default=Usage())
    """What the reused pages took when they were read."""
    wasted: Usage = field(default=Usage())
    """Of answers that were thrown away."""


class UsageBook:
    """Writes usage rows, many in a unit of work.

    Why not each with its request: a commit costs as much as reading a page, and rows of a database
    that is away for a while need not be lost. What a killed process loses is `SECONDS` of rows.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: deque[dict[str, object]] = deque()
        self._any, self._turn = asyncio.Event(), asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write what is recorded, until `close`."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="usage")

    async def close(self) -> None:
        """Write what waits; call it before the database is closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        while self._rows and await self.flush():
            pass
        while self._rows:
            _lost(self._rows.popleft())

    async def record(self, principal: Principal, entry: Entry) -> None:
        """Take one row for the caller's organisation; it is on disk soon."""
        self._rows.append(_row(principal, entry))
        self._any.set()
        if len(self._rows) > MOST:
            _lost(self._rows.popleft())

    async def flush(self) -> bool:
        """Write what waits, `BATCH` rows at most; tell whether the database took them."""
        return await finished(self._write())

    async def _write(self) -> bool:
        async with self._turn:
            rows = [self._rows.popleft() for _ in range(min(BATCH, len(self._rows)))]
            if not rows:
                return True
            try:
                async with self._database.unit() as session:
                    await session.execute(insert(UsageRow), rows)
            except AppError as error:
                log(__name__, "usage_waits", level=WARNING, rows=len(rows), code=error.code)
                self._rows.extendleft(reversed(rows))
                return False
            return True

    async def _run(self) -> None:
        while True:
            await self._any.wait()
            await asyncio.sleep(SECONDS)
            if not await self.flush():
                await asyncio.sleep(PAUSE)
            if not self._rows:
                self._any.clear()


def _lost(row: dict[str, object]) -> None:
    log(__name__, "usage_lost", level=ERROR, **row)


def _row(principal: Principal, entry: Entry) -> dict[str, object]:
    return {
        "id": new_id(),
        "org_id": principal.org_id,
        "key_id": principal.key_id,
        "request_id": entry.request_id,
        "created_at": int(time.time()),
        "model": entry.model,
        "card": entry.card,
        "outcome": entry.outcome,
        "pages": entry.pages,
        "prompt_tokens": entry.tokens.prompt_tokens,
        "completion_tokens": entry.tokens.completion_tokens,
        "document_bytes": entry.document_bytes,
        "seconds": round(entry.seconds, 3),
        "pages_reused": entry.pages_reused,
        "pages_failed": entry.pages_failed,
        "reused_prompt_tokens": entry.reused.prompt_tokens,
        "reused_completion_tokens": entry.reused.completion_tokens,
        "wasted_prompt_tokens": entry.wasted.prompt_tokens,
        "wasted_completion_tokens": entry.wasted.completion_tokens,
    }
