"""Organisations: made once, found by id and name, limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from files_api.accounts import (
    ALL_SCOPES,
    LIMITS,
    LOCAL_ORG_ID,
    AccountError,
    Organisations,
    OrgLimits,
    OrgRecord,
    ensure_local,
)
from tests.keys_desk import Desk, desk

UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Desk]:
    async with desk(database_url) as opened:
        yield opened


async def test_organisations_are_found_by_id_and_name(one: Desk) -> None:
    acme = await one.org(" Acme & Söhne ", OrgLimits(max_bytes=2**40, max_files=0))
    assert acme == OrgRecord(
        acme.id,
        "Acme & Söhne",
        int(one.clock.now),
        stored_bytes=0,
        stored_files=0,
        limits=OrgLimits(max_bytes=2**40, max_files=0),
    )
    for text in (acme.id, acme.id.upper(), acme.name, f" {acme.name} "):
        assert await one.organisations.find(text) == acme
    for text in (UNKNOWN, "acme", "", "%", "x" * 300, "a\0b"):
        with pytest.raises(AccountError):
            await one.organisations.find(text)
    local = await one.organisations.find("local")
    assert local.id == LOCAL_ORG_ID
    assert {record.id for record in await one.organisations.list()} == {acme.id, LOCAL_ORG_ID}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\ud800", "x" * 201, UNKNOWN, UNKNOWN.upper()])
async def test_names_that_cannot_be(one: Desk, name: str) -> None:
    with pytest.raises(AccountError):
        await one.org(name)
    assert await one.organisations.list() == []


async def test_a_name_is_one_organisations(one: Desk) -> None:
    """Also when several operators are as fast as each other."""
    desks = [Organisations(one.database) for _ in range(8)]
    made = await asyncio.gather(*(each.create("acme") for each in desks), return_exceptions=True)
    problems = [str(answer) for answer in made if isinstance(answer, BaseException)]
    assert problems == ["There is an organisation 'acme' already."] * 7
    assert [record.name for record in await one.organisations.list()] == ["local", "acme"]
    with pytest.raises(AccountError):
        await one.org("local")


async def test_limits_change_one_by_one(one: Desk) -> None:
    acme, other = await one.org("acme", OrgLimits(max_files=7)), await one.org("other")
    changes: dict[str, int | None] = {"max_bytes": 0, "pages_per_minute": 2**40}
    await one.organisations.set_limits(acme.id, changes)
    await one.organisations.set_limits(acme.id, {"max_bytes": None})
    found = (await one.organisations.find("acme")).limits
    assert found == OrgLimits(max_files=7, pages_per_minute=2**40)
    assert (await one.organisations.find("other")).limits == other.limits == OrgLimits()
    with pytest.raises(KeyError):
        await one.organisations.set_limits(acme.id, {"name": 1})
    assert LIMITS == (
        "max_bytes", "max_files", "requests_per_minute", "pages_per_minute", "bytes_per_minute",
        "weight",
    )  # fmt: skip


async def test_a_weight_is_between_1_and_10_000(one: Desk) -> None:
    acme = await one.org("acme", OrgLimits(weight=1))
    assert (await one.organisations.find("acme")).limits.weight == 1
    for wrong in (0, -1, 10_001):
        with pytest.raises(AccountError, match="A weight is a number from 1 to 10000"):
            await one.organisations.set_limits(acme.id, {"weight": wrong})
        with pytest.raises(AccountError, match="A weight is a number from 1 to 10000"):
            await one.org(f"other {wrong}", OrgLimits(weight=wrong))
    assert (await one.organisations.find("acme")).limits.weight == 1
    await one.organisations.set_limits(acme.id, {"weight": 10_000})
    key = await one.key(acme, "ocr")
    assert (await one.keys.principal(key)).limits.weight == 10_000
    await one.organisations.set_limits(acme.id, {"weight": None})
    assert [record.name for record in await one.organisations.list()] == ["local", "acme"]
    assert (await one.organisations.find("acme")).limits == OrgLimits()


async def test_the_local_caller_has_its_organisations_limits(one: Desk) -> None:
    assert (await ensure_local(one.database)).limits == OrgLimits()
    await one.organisations.set_limits(LOCAL_ORG_ID, {"max_files": 3})
    local = await ensure_local(one.database)
    assert (local.limits, local.scopes) == (OrgLimits(max_files=3), ALL_SCOPES)
