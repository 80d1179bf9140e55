"""API keys: what is kept of them, who gets in, and how soon a change is felt."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import pickle
import re
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from files_api import keys as keys_module
from files_api.accounts import ALL_SCOPES, LOCAL_ORG_ID, AccountError, OrgLimits, Principal
from files_api.keys import TRUST_SECONDS, USED_SECONDS, Keys
from files_api.kit.db import Database
from files_api.kit.errors import OrganisationRefused, StorageUnavailable, Unauthorized
from files_api.kit.recent import Recent
from files_api.tables import ApiKeyRow
from tests.keys_desk import SECRET, Desk, Statements, desk

UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
FELT_SECONDS = 30
"""The promise; `TRUST_SECONDS` keeps it with room to spare."""


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Desk]:
    async with desk(database_url) as opened:
        yield opened


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Desk]:
    """The same on SQLite only, for what has nothing to do with the kind of database."""
    async with desk(f"sqlite:///{tmp_path / 'x.db'}") as opened:
        yield opened


async def row_of(database: Database, key_id: str) -> ApiKeyRow:
    async with database.read() as session:
        return (await session.execute(select(ApiKeyRow).where(ApiKeyRow.id == key_id))).scalar_one()


async def refused(keys: Keys, presented: str) -> bool:
    try:
        await keys.principal(presented)
    except Unauthorized:
        return True
    return False


async def test_a_key_is_its_organisations(one: Desk) -> None:
    limits = OrgLimits(max_bytes=5, pages_per_minute=0)
    acme = await one.org("acme", limits)
    record, key = await one.keys.make(acme, scopes=["ocr", "files:read"], name=" laptop ")
    assert re.fullmatch(rf"ocr_{record.id}_[0-9A-Za-z]{{43}}", key)
    assert re.fullmatch("[0-9a-f]{16}", record.id)
    assert (record.name, record.org_name, record.scopes) == (
        "laptop",
        "acme",
        ("files:read", "ocr"),
    )
    assert await one.another_process().principal(key) == Principal(
        acme.id, record.id, False, frozenset({"ocr", "files:read"}), limits
    )
    assert await one.keys.list() == [record]
    assert await one.keys.list(LOCAL_ORG_ID) == []


async def test_only_what_checks_a_key_is_kept(lite: Desk) -> None:
    record, key = await lite.keys.make(await lite.org("acme"), scopes=ALL_SCOPES)
    secret = key.split("_")[2]
    # HKDF-SHA256 (RFC 5869) with an empty salt, written out.
    extracted = hmac.digest(bytes(32), SECRET.encode(), "sha256")
    pepper = hmac.digest(extracted, b"recto api-key-pepper-v1\x01", "sha256")
    row = await row_of(lite.database, record.id)
    assert row.mac == hmac.new(pepper, secret.encode(), "sha256").hexdigest()
    assert row.pepper == hashlib.sha256(b"pepper id\n" + pepper).hexdigest()[:12]
    async with lite.database.read() as session:
        rows = (await session.execute(text("SELECT * FROM api_keys"))).all()
    assert secret not in str(rows)
    assert secret not in repr(record)


async def test_keys_are_random_in_every_digit(lite: Desk) -> None:
    acme = await lite.org("acme")
    secrets = [(await lite.key(acme)).split("_")[2] for _ in range(200)]
    assert len(set(secrets)) == 200
    for place in range(1, 43):  # 62 ** 43 is 2 ** 256.03, so that the first digit is even, too
        assert len({secret[place] for secret in secrets}) > 40
    assert set("".join(secrets)) == set(string.ascii_letters + string.digits)


async def test_every_refusal_takes_the_same_way(
    lite: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question to the database and one comparison of two MACs, whatever is wrong."""
    acme = await lite.org("acme")
    good, expired, revoked = [await lite.key(acme) for _ in range(3)]
    await lite.keys.revoke(revoked.split("_")[1])
    which = ApiKeyRow.id == expired.split("_")[1]
    async with lite.database.unit() as session:
        await session.execute(update(ApiKeyRow).where(which).values(expires_at=1))
    foreign = await desk_key(lite, "another master secret 0123456789abc")
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    unknown = f"ocr_{'f' * 16}_{good.split('_')[2]}"
    presented = [
        wrong,
        unknown,
        expired,
        revoked,
        foreign,
        "",
        "x",
        "ocr__",
        good + "\n",
        "é\ud800",
    ]
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def note(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", note)
    statements = Statements(lite.database)
    for number, text_ in enumerate(presented, 1):
        assert await refused(lite.keys, text_), text_
        assert compared == [(64, 64)] * number
        assert statements.selects == number
    assert not await refused(lite.keys, good)


async def desk_key(one: Desk, secret: str) -> str:
    """Return a key that was made with another master secret, which nobody here knows."""
    _, key = await one.another_process(secret).make(
        await one.organisations.find("acme"), scopes=["ocr"]
    )
    return key


async def test_a_key_ends_in_the_second_that_it_says(one: Desk) -> None:
    acme = await one.org("acme")
    key = await one.key(acme, expires_at=int(one.clock.now) + 5)
    for moment, over in ((0, False), (4.999, False), (5, True), (6, True), (4, False)):
        one.clock.now = 1_800_000_000.0 + moment
        assert await refused(one.keys, key) == over  # remembered from the first time
        assert await refused(one.another_process(), key) == over


async def test_a_revoked_key_is_refused_everywhere_soon(one: Desk) -> None:
    key = await one.key(await one.org("acme"))
    elsewhere = one.another_process()
    assert not await refused(elsewhere, key)
    record = await one.keys.revoke(key.split("_")[1])
    assert record.revoked_at == int(one.clock.now)
    assert await refused(one.keys, key)
    assert await refused(one.another_process(), key)
    one.clock.now += TRUST_SECONDS
    assert await refused(elsewhere, key)
    assert TRUST_SECONDS <= FELT_SECONDS / 2
    one.clock.now += 100
    again = await one.keys.revoke(record.id)
    assert again.revoked_at == record.revoked_at  # the first time counts
    with pytest.raises(AccountError, match="no key with this id"):
        await one.keys.revoke("0123456789abcdef")


async def test_a_whole_key_revokes_nothing(lite: Desk) -> None:
    """It would stand in the shell's history: it is refused, and not repeated."""
    key = await lite.key(await lite.org("acme"))
    _, key_id, secret = key.split("_")
    for wrong in (key, f"ocr_{key_id}", f"{key_id}_{secret}", secret, key_id.upper() + "0", ""):
        with pytest.raises(AccountError, match="Give the key's id only") as caught:
            await lite.keys.revoke(wrong)
        assert key_id not in str(caught.value)
        assert secret not in str(caught.value)
    assert not await refused(lite.keys, key)


async def test_a_good_answer_is_remembered_for_a_while(lite: Desk) -> None:
    key = await lite.key(await lite.org("acme"))
    statements = Statements(lite.database)
    for moment, asked in ((0, 1), (9.9, 1), (10, 2), (19.9, 2), (20, 3), (15, 4)):
        lite.clock.now = 1_800_000_000.0 + moment
        assert not await refused(lite.keys, key)
        assert statements.selects == asked, moment  # a clock set back makes it ask again


async def test_a_bad_answer_is_not_remembered(lite: Desk) -> None:
    key = await lite.key(await lite.org("acme"))
    await lite.keys.revoke(key.split("_")[1])
    assert await refused(lite.keys, key)
    async with lite.database.unit() as session:
        await session.execute(update(ApiKeyRow).values(revoked_at=None))
    assert not await refused(lite.keys, key)


async def test_what_is_remembered_is_bounded_and_holds_no_key(lite: Desk) -> None:
    recent: Recent[int] = Recent(2)
    for key, value in (("a", 1), ("b", 2)):
        recent.put(key, 0, 10, value)
    assert recent.get("a", 5) == 1
    recent.put("c", 0, 10, 3)
    assert [recent.get(key, 5) for key in "abc"] == [1, None, 3]  # b was unused longest
    assert [recent.get(key, 10) for key in "ac"] == [None, None]
    key = await lite.key(await lite.org("acme"))
    await lite.keys.principal(key)
    held = pickle.dumps(lite.keys._good._held)
    assert key.split("_")[1].encode() in held  # the principal names its key's id
    assert key.split("_")[2].encode() not in held


async def test_keys_move_to_the_new_secret_when_they_are_used(one: Desk) -> None:
    acme = await one.org("acme")
    used, unused = await one.key(acme), await one.key(acme)
    new = "the next master secret of these tests"
    rotating = one.another_process(new, previous=SECRET)
    assert not await refused(rotating, used)
    await rotating.close()
    settled = one.another_process(new)
    assert (await row_of(one.database, used.split("_")[1])).pepper == settled._current.id
    assert not await refused(settled, used)
    assert await refused(settled, unused)
    assert not await refused(one.another_process(new, previous=SECRET), used)
    assert await refused(one.another_process(), used)  # the old secret alone is worth nothing now
    assert not await refused(one.another_process(), unused)


async def test_the_last_use_is_written_now_and_then(one: Desk) -> None:
    key = await one.key(await one.org("acme"))
    statements, begin = Statements(one.database), int(one.clock.now)
    used = []
    for moment in (0, 20, USED_SECONDS - 15, USED_SECONDS, USED_SECONDS + 20):
        one.clock.now = begin + moment
        await one.keys.principal(key)
        await one.keys.close()
        used.append((await one.keys.list())[0].last_used_at)
    assert used == [begin] * 3 + [begin + USED_SECONDS] * 2
    assert statements.updates == 2


async def test_a_use_that_cannot_be_written_harms_nobody(
    lite: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    key = await lite.key(await lite.org("acme"))
    async with lite.database.unit() as session:
        refuse = "BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(ABORT, 'no'); END"
        await session.execute(text(f"CREATE TRIGGER refuse {refuse}"))
    with caplog.at_level(logging.WARNING):
        assert not await refused(lite.keys, key)
        await lite.keys.close()
    (record,) = caplog.records
    assert record.getMessage() == "key_use_not_written"
    assert key.split("_")[2] not in str(vars(record))


async def test_many_requests_at_once_write_one_use(lite: Desk) -> None:
    key = await lite.key(await lite.org("acme"))
    statements = Statements(lite.database)
    await asyncio.gather(*(lite.keys.principal(key) for _ in range(20)))
    await lite.keys.close()
    assert statements.updates == 1


async def test_the_first_key_is_noticed_soon(one: Desk) -> None:
    assert not await one.keys.any()
    elsewhere = one.another_process()
    statements = Statements(one.database)
    answers = await asyncio.gather(*(elsewhere.any() for _ in range(20)))
    assert (answers, statements.selects) == ([False] * 20, 1)
    key = await one.key(await one.org("acme"))
    assert not await elsewhere.any()  # asked a moment ago
    one.clock.now += 3
    assert await elsewhere.any()
    assert await one.keys.any()
    await one.keys.revoke(key.split("_")[1])
    one.clock.now += 100
    assert await one.another_process().any()  # a revoked key keeps the door closed
    statements.selects = 0
    assert await elsewhere.any()
    assert statements.selects == 0


async def test_nobody_is_let_in_while_the_database_is_gone(tmp_path: Path) -> None:
    keys = Keys(Database(f"sqlite:///{tmp_path / 'none' / 'x.db'}"), b"secret")
    for _ in range(2):  # a failure is no answer
        with pytest.raises(StorageUnavailable):
            await keys.any()


class Frozen(Database):
    """A real database whose reads wait for an event, and then fail for a while."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked, self.thawed = asyncio.Event(), asyncio.Event()
        self.questions = 0
        self.fails = True

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        self.questions += 1
        self.asked.set()
        await self.thawed.wait()
        if self.fails:
            raise StorageUnavailable
        async with super().read() as session:
            yield session


@pytest.fixture
async def frozen(lite: Desk) -> AsyncIterator[Frozen]:
    made = Frozen(str(lite.database.engine.url))
    yield made
    await made.close()


async def test_all_share_one_question_and_its_failure(lite: Desk, frozen: Frozen) -> None:
    """Thirty callers of a database that hangs wait once together, not one after the other."""
    keys = Keys(frozen, b"secret", clock=lite.clock)
    callers = [asyncio.create_task(keys.any()) for _ in range(30)]
    await frozen.asked.wait()
    callers[0].cancel()  # who leaves, also the first, takes nothing from the others
    frozen.thawed.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in answers[1:]] == [StorageUnavailable] * 29
    assert isinstance(answers[0], asyncio.CancelledError)
    assert frozen.questions == 1
    frozen.fails = False  # a failure is not remembered
    assert await asyncio.gather(*(keys.any() for _ in range(30))) == [False] * 30
    assert frozen.questions == 2


async def test_limits_without_a_key_are_read_anew(one: Desk) -> None:
    acme = await one.org("acme", OrgLimits(requests_per_minute=5))
    link = Principal(acme.id)
    assert await one.keys.with_limits(link) == Principal(acme.id, limits=acme.limits)
    await one.organisations.set_limits(acme.id, {"requests_per_minute": 7})
    assert (await one.keys.with_limits(link)).limits.requests_per_minute == 5
    one.clock.now += TRUST_SECONDS
    assert (await one.keys.with_limits(link)).limits.requests_per_minute == 7
    nobody = Principal(UNKNOWN, limits=OrgLimits(max_files=1))
    assert await one.keys.with_limits(nobody) == nobody


async def test_limits_that_cannot_be_read_stay_as_they_are(lite: Desk, frozen: Frozen) -> None:
    acme = await lite.org("acme", OrgLimits(requests_per_minute=5))
    keys = Keys(frozen, b"secret", clock=lite.clock)
    known = Principal(acme.id, limits=OrgLimits(requests_per_minute=3))
    callers = [asyncio.create_task(keys.with_limits(known)) for _ in range(30)]
    await frozen.asked.wait()
    frozen.thawed.set()
    assert await asyncio.gather(*callers) == [known] * 30
    assert frozen.questions == 1
    frozen.fails = False
    assert (await keys.with_limits(known)).limits == acme.limits
    assert (await keys.with_limits(known)).limits == acme.limits
    assert frozen.questions == 2


async def test_a_service_key_acts_for_others(one: Desk) -> None:
    acme, other = await one.org("acme", OrgLimits(max_files=1)), await one.org("other")
    plain = await one.keys.principal(await one.key(other))
    service = await one.keys.principal(await one.key(other, service=True))
    acting = await one.keys.acting_for(service, acme.id.upper())
    assert (acting.org_id, acting.key_id, acting.limits) == (acme.id, service.key_id, acme.limits)
    assert await one.keys.acting_for(plain, other.id) is plain
    for who, org_id in (
        (plain, acme.id), (plain, UNKNOWN), (plain, "x"),
        (service, UNKNOWN), (service, "x"), (service, ""), (service, "é" * 36), (service, "\0"),
    ):  # fmt: skip
        with pytest.raises(OrganisationRefused) as caught:
            await one.keys.acting_for(who, org_id)
        assert caught.value.message == OrganisationRefused.default_message()


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"scopes": []}, "none given"),
        ({"scopes": ["ocr", "root"]}, "'root'"),
        ({"scopes": ["ocr"], "expires_at": 1_800_000_000}, "expired already"),
        ({"scopes": ["ocr"], "name": "n" * 201}, "at most 200"),
        ({"scopes": ["ocr"], "name": "a\nb"}, "printable"),
    ],
)
async def test_keys_that_cannot_be(lite: Desk, facts: dict[str, object], problem: str) -> None:
    acme = await lite.org("acme")
    with pytest.raises(AccountError, match=problem):
        await lite.keys.make(acme, **facts)  # type: ignore[arg-type]
    assert await lite.keys.list() == []


ANY = st.text(st.characters(), max_size=80)
DIGIT = st.sampled_from(string.ascii_letters + string.digits)


def near(key: str) -> st.SearchStrategy[str]:
    """Give texts that are nearly a key: one character changed, added, dropped; parts swapped."""
    place = st.integers(0, len(key) - 1)
    character = DIGIT | st.characters()
    return st.one_of(
        st.tuples(place, character).map(lambda at: key[: at[0]] + at[1] + key[at[0] + 1 :]),
        st.tuples(place, character).map(lambda at: key[: at[0]] + at[1] + key[at[0] :]),
        place.map(lambda at: key[:at] + key[at + 1 :]),
        place.map(lambda at: key[:at]),
        place.map(lambda at: key[at:] + key[:at]),
        st.text(DIGIT, min_size=43, max_size=43).map(lambda secret: key[:21] + secret),
        st.text("0123456789abcdef", min_size=16, max_size=16).map(
            lambda key_id: f"ocr_{key_id}{key[20:]}"
        ),
        st.sampled_from([key.upper(), key.lower(), f" {key}", f"{key} ", f"Bearer {key}"]),
        ANY,
        ANY.map(lambda more: key + more),
    )


def test_forged_keys_open_nothing(tmp_path: Path) -> None:
    """1,000 texts around a real key: only the key itself is one."""
    with asyncio.Runner() as runner:
        opening = desk(f"sqlite:///{tmp_path / 'x.db'}")
        one = runner.run(opening.__aenter__())
        key = runner.run(one.key(runner.run(one.org("acme"))))

        @settings(max_examples=1000, derandomize=True, deadline=None, database=None)
        @given(near(key))
        def check(presented: str) -> None:
            assert runner.run(refused(one.keys, presented)) == (presented != key)

        check()
        runner.run(opening.__aexit__(None, None, None))
