"""Idempotency keys in the database: claimed once, fenced, remembered for a day."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from sqlalchemy import func, select, text

from files_api.accounts import Principal, ensure_local
from files_api.idempotency import CLAIM_SECONDS, KEPT_SECONDS, Claim, Idempotency, fingerprint
from files_api.kit.db import Base, Database
from files_api.kit.errors import IdempotencyKeyBusy, IdempotencyKeyReused, StorageUnavailable
from files_api.tables import IdempotencyRow, Organisation

STRANGER = Principal("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
ROUTE = "POST /v1/files"
ASKED = fingerprint("a", 1, None)


@dataclass
class Keys:
    book: Idempotency
    database: Database
    me: Principal
    now: float = 1_000_000.0

    async def claim(
        self, key: str = "k", route: str = ROUTE, who: Principal | None = None
    ) -> Claim:
        return await self.book.claim(who or self.me, route, key)

    async def finish(self, claim: Claim, answer: str = "{}") -> None:
        async with self.database.unit() as session:
            await claim.finish(ASKED, answer)(session)

    async def count(self) -> int:
        async with self.database.read() as session:
            rows = select(func.count()).select_from(IdempotencyRow)
            return (await session.execute(rows)).scalar_one()


@pytest.fixture
async def keys(database_url: str) -> AsyncIterator[Keys]:
    database = Database(database_url)
    await database.run_sync(Base.metadata.create_all)
    async with database.unit() as session:
        session.add(Organisation(id=STRANGER.org_id, name="other", created_at=1))
    book = Idempotency(database, clock=lambda: made.now)
    made = Keys(book, database, await ensure_local(database))
    yield made
    await database.close()


async def test_a_finished_request_is_answered_again(keys: Keys) -> None:
    claim = await keys.claim()
    assert claim.answer is None
    await keys.finish(claim, '{"id": "ä"}')
    again = await keys.claim()
    assert again.answer == '{"id": "ä"}'
    again.check(ASKED)
    with pytest.raises(IdempotencyKeyReused):
        again.check(fingerprint("a", 2, None))


async def test_one_of_many_gets_the_claim(keys: Keys) -> None:
    """R20."""
    results = await asyncio.gather(*(keys.claim() for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Claim) for result in results) == 1
    assert sum(isinstance(result, IdempotencyKeyBusy) for result in results) == 19


async def test_another_organisation_route_or_key_is_another_claim(keys: Keys) -> None:
    """R12: a stranger's key neither collides with mine nor shows my answer."""
    await keys.finish(await keys.claim())
    assert (await keys.claim(who=STRANGER)).answer is None
    assert (await keys.claim(route="POST /v1/uploads")).answer is None
    assert (await keys.claim("K")).answer is None


async def test_a_failed_request_gives_its_key_back(keys: Keys) -> None:
    claim = await keys.claim()
    await claim.release()
    assert (await keys.claim()).answer is None


async def test_releasing_takes_no_answer_and_no_other_claim_away(keys: Keys) -> None:
    first = await keys.claim()
    keys.now += CLAIM_SECONDS
    second = await keys.claim()
    await first.release()
    with pytest.raises(IdempotencyKeyBusy):
        await keys.claim()
    await keys.finish(second)
    await second.release()
    assert (await keys.claim()).answer == "{}"


async def test_a_dead_claim_is_taken_over_and_fenced(keys: Keys) -> None:
    """R20: who comes back from the dead does not do it a second time."""
    dead = await keys.claim()
    keys.now += CLAIM_SECONDS - 1
    with pytest.raises(IdempotencyKeyBusy):
        await keys.claim()
    keys.now += 1
    heir = await keys.claim()
    with pytest.raises(IdempotencyKeyBusy):
        await keys.finish(dead, '"dead"')
    with pytest.raises(IdempotencyKeyBusy):
        await dead.renew()
    await keys.finish(heir, '"heir"')
    with pytest.raises(IdempotencyKeyBusy):
        await keys.finish(dead, '"dead"')
    assert (await keys.claim()).answer == '"heir"'


async def test_of_many_heirs_one_takes_over(keys: Keys) -> None:
    await keys.claim()
    keys.now += CLAIM_SECONDS
    results = await asyncio.gather(*(keys.claim() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, Claim) for result in results) == 1
    assert sum(isinstance(result, IdempotencyKeyBusy) for result in results) == 9


async def test_who_comes_while_a_claim_is_taken_over_finds_it_busy(keys: Keys) -> None:
    """R20: both see a dead claim; the second looks again when the first is done."""
    await keys.claim()
    keys.now += CLAIM_SECONDS
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with keys.database.unit() as session:
        row = await session.get(IdempotencyRow, (keys.me.org_id, ROUTE, "k"), with_for_update=True)
        assert row
        row.claim, row.claimed_at = "another", int(keys.now)
        await session.flush()
        task = asyncio.create_task(keys.claim())
        for _ in range(1000):
            await asyncio.sleep(0)
            if keys.database.is_sqlite:
                continue  # there, the second unit cannot begin
            async with keys.database.read() as other:
                if (await other.execute(waiting)).scalar_one():
                    break
        else:
            assert keys.database.is_sqlite, "nothing waits"
    with pytest.raises(IdempotencyKeyBusy):
        await task


async def test_a_request_that_is_alive_keeps_its_claim(keys: Keys) -> None:
    claim = await keys.claim()
    for _ in range(10):
        keys.now += CLAIM_SECONDS / 2
        await claim.renew()
        with pytest.raises(IdempotencyKeyBusy):
            await keys.claim()
    await keys.finish(claim)


async def test_answers_are_remembered_for_a_day(keys: Keys) -> None:
    await keys.finish(await keys.claim("old"))
    keys.now += KEPT_SECONDS - 1
    await keys.finish(await keys.claim("young"))
    assert (await keys.claim("old")).answer == "{}"
    assert await keys.book.sweep() == 0
    keys.now += 1
    # Whether it was swept or not.
    first = await keys.claim("old")
    assert first.answer is None
    await first.release()
    assert await keys.book.sweep() == 0
    keys.now += KEPT_SECONDS - 1
    assert await keys.book.sweep() == 1
    assert await keys.count() == 0


async def test_claims_are_forgotten_where_no_process_can_hold_one(keys: Keys) -> None:
    await keys.finish(await keys.claim("done"))
    for key in ("a", "b"):
        await keys.claim(key)
    assert await keys.book.forget_claims() == 2
    assert (await keys.claim("a")).answer is None
    assert (await keys.claim("done")).answer == "{}"


async def test_what_fails_with_the_answer_leaves_no_answer(keys: Keys) -> None:
    """R20: the answer and the thing itself are one unit."""
    claim = await keys.claim()

    async def fail() -> None:
        async with keys.database.unit() as session:
            await claim.finish(ASKED, "{}")(session)
            raise StorageUnavailable

    with pytest.raises(StorageUnavailable):
        await fail()
    await claim.release()
    assert (await keys.claim()).answer is None


async def test_a_release_that_fails_is_logged(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    claim = await keys.claim()

    def gone() -> None:
        raise StorageUnavailable

    monkeypatch.setattr(keys.database, "unit", gone)
    await claim.release()
    assert [record.message for record in caplog.records] == ["claim_left"]


def test_fingerprints_tell_facts_apart() -> None:
    facts = [("a", "b"), ("a,b",), ("ab", ""), ("a", None), ("a", "None"), (1,), ("1",)]
    assert len({fingerprint(*each) for each in facts}) == len(facts)
