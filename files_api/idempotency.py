"""``Idempotency-Key``: a POST that is sent again does one thing, and is answered the same.

A request claims its key before it does anything; what it did and what it answered become
visible together, in one unit. A failure gives the key back. Who dies with a claim, loses it a
minute later to the next request with the key, and can then no longer finish.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from logging import WARNING

from sqlalchemy import ColumnElement, delete, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.accounts import Principal
from files_api.kit.db import Database
from files_api.kit.errors import IdempotencyKeyBusy, IdempotencyKeyReused
from files_api.kit.ids import new_id
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from files_api.tables import IdempotencyRow as Row

KEPT_SECONDS = 24 * 3600
"""How long an answer is remembered, as Stripe does."""
CLAIM_SECONDS = 60
"""A claim that was not renewed for so long is a dead process's."""
_RENEW_SECONDS = 15

InUnit = Callable[[AsyncSession], Awaitable[None]]
"""Work to be done in the same unit as the thing itself, so that both happen or neither."""


class Idempotency:
    """Claims keys, remembers answers; one for the process."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def claim(self, principal: Principal, route: str, key: str) -> Claim:
        """Begin a request with a key, or find what it answered.

        Args:
            principal: who asks; another organisation's keys are others.
            route: method and path, at most 200 characters.
            key: as the client sent it, at most 255 characters.

        Raises:
            IdempotencyKeyBusy: a request with this key is being worked on.
        """
        place, now = (principal.org_id, route, key), self._clock()
        fresh = Row(org_id=place[0], route=route, key=key, claim=new_id(), claimed_at=int(now))
        claim = Claim(self._database, self._clock, fresh)
        try:
            async with self._database.unit() as session:
                row = await session.get(Row, place, with_for_update=True)
                if row is None:
                    session.add(fresh)
                    return claim
                lives = KEPT_SECONDS if row.answer is not None else CLAIM_SECONDS
                if row.claimed_at <= now - lives:
                    row.claim, row.claimed_at = fresh.claim, fresh.claimed_at
                    row.fingerprint = row.answer = None
                    return claim
        except IntegrityError:
            raise IdempotencyKeyBusy from None  # another one came at the same time
        if row.answer is None:
            raise IdempotencyKeyBusy
        return Claim(self._database, self._clock, row)

    async def sweep(self) -> int:
        """Remove the keys that are older than a day; return how many."""
        return await self._delete(Row.claimed_at <= self._clock() - KEPT_SECONDS)

    async def forget_claims(self) -> int:
        """Release every claim, where no process can be working on one; return how many.

        For the start of a service that is the only one on its database.
        """
        return await self._delete(Row.answer.is_(None))

    async def _delete(self, which: ColumnElement[bool]) -> int:
        async with self._database.unit() as session:
            gone = await session.execute(delete(Row).where(which).returning(Row.claim))
            return len(gone.all())


class Claim:
    """One request with a key."""

    answer: str | None
    """The JSON that was answered to the first request; None when this is the first."""

    def __init__(self, database: Database, clock: Callable[[], float], row: Row) -> None:
        self.answer = row.answer
        self._fingerprint = row.fingerprint
        self._database = database
        self._clock = clock
        self._renewed = clock()
        self._mine = (
            Row.org_id == row.org_id,
            Row.route == row.route,
            Row.key == row.key,
            Row.claim == row.claim,
        )

    def check(self, asked: str) -> None:
        """Compare this request's `fingerprint` with the first one's.

        Raises:
            IdempotencyKeyReused: the first request asked for something else.
        """
        if self._fingerprint != asked:
            raise IdempotencyKeyReused

    def finish(self, asked: str, answer: str) -> InUnit:
        """Return what remembers the answer in the unit that does what was asked.

        It raises `IdempotencyKeyBusy` when another request took the claim over meanwhile: then
        that one does what was asked, and this unit must not.

        Args:
            asked: the request's `fingerprint`.
            answer: the JSON.
        """

        async def remember(session: AsyncSession) -> None:
            done = update(Row).where(*self._mine).values(fingerprint=asked, answer=answer)
            if not (await session.execute(done.returning(Row.claim))).all():
                raise IdempotencyKeyBusy

        return remember

    async def renew(self) -> None:
        """Say that the request is alive; to be called as its body comes, as often as one likes.

        Raises:
            IdempotencyKeyBusy: another request took the claim over.
        """
        now = self._clock()
        if self.answer is not None or now < self._renewed + _RENEW_SECONDS:
            return
        self._renewed = now
        alive = update(Row).where(*self._mine).values(claimed_at=int(now)).returning(Row.claim)
        async with self._database.unit() as session:
            if not (await session.execute(alive)).all():
                raise IdempotencyKeyBusy

    async def release(self) -> None:
        """Let the key be used again: the request failed. A failure is logged, not raised."""
        if self.answer is None:
            await finished(self._release())

    async def _release(self) -> None:
        # A commit that nobody heard of may have answered: then the answer stays.
        gone = delete(Row).where(*self._mine, Row.answer.is_(None))
        try:
            async with self._database.unit() as session:
                await session.execute(gone)
        except Exception as error:  # noqa: BLE001 - the claim ends by itself in a minute
            log(__name__, "claim_left", level=WARNING, error=type(error).__name__)


def fingerprint(*facts: str | int | None) -> str:
    """Return the SHA-256, in hexadecimal, of what a request asks for."""
    return sha256(json.dumps(facts).encode()).hexdigest()
