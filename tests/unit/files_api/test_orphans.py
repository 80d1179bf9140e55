"""A blob store is swept by the one database that it belongs to, on every kind of either."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from files_api.accounts import LOCAL_ORG_ID, Principal, ensure_local
from files_api.blobs import BlobStore, open_store
from files_api.files import Files, installation
from files_api.kit.db import Base, Database
from files_api.kit.ids import is_id
from files_api.links import Links
from files_api.quota import Quota
from files_api.tables import Installation, Organisation

ME = Principal(LOCAL_ORG_ID)
LATER = 7200


@dataclass
class Store:
    """One database with its view of the blob store; its clock is two hours ahead."""

    database: Database
    blobs: BlobStore
    files: Files

    async def put(self) -> str:
        received = await self.files.receive(ME, stream())
        return (await self.files.keep(ME, received, "a", "ocr")).blob_key

    async def leave(self) -> str:
        """Leave bytes as a crash does."""
        return (await self.files.receive(ME, stream())).blob_key

    async def keys(self) -> set[str]:
        return {blob.key async for blob in self.blobs.blobs()}


Make = Callable[..., Awaitable[Store]]


async def stream() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.fixture
async def make(database_url: str, blob_url: str, tmp_path: Path) -> AsyncIterator[Make]:
    """Open the database ("") or another one, in front of the same blob store."""
    async with AsyncExitStack() as stack:

        async def go(name: str = "") -> Store:
            url = f"sqlite:///{tmp_path / name}.db" if name else database_url
            database, blobs = Database(url), open_store(blob_url)
            stack.push_async_callback(database.close)
            stack.push_async_callback(blobs.close)
            await database.run_sync(Base.metadata.create_all)
            await ensure_local(database)
            links, quota = Links(b"s" * 32), Quota()
            files = Files(database, blobs, links, quota, 1000, lambda: time.time() + LATER)
            return Store(database, blobs, files)

        yield go


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.message == "orphans_not_swept"]
    assert all(record.levelname == "ERROR" for record in found)
    return [record.facts["reason"] for record in found]  # type: ignore[attr-defined]


async def test_r1_another_database_over_the_same_store_removes_nothing(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = await make()
    assert await first.files.sweep_orphans() == 0  # at its start, as every start
    keys = {await first.put() for _ in range(3)}
    second = await make("second")
    for _ in range(2):
        assert await second.files.sweep_orphans() == 0
    await second.put()  # now it is not empty any more
    assert await second.files.sweep_orphans() == 0
    assert keys < await first.keys()
    assert refusals(caplog) == ["the store is another database's"] * 3


async def test_r1_a_database_that_knows_nothing_takes_no_store_without_a_marker(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = await make()
    keys = {await first.put() for _ in range(3)}
    second = await make("second")
    assert await second.files.sweep_orphans() == 0
    keys.add(await second.put())
    assert await second.files.sweep_orphans() == 0
    assert await first.keys() == keys  # and no marker
    assert refusals(caplog) == ["the store holds blobs that this database does not know"] * 2


async def test_a_store_from_before_the_marker_is_taken_and_swept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2: most of its blobs are known."""
    monkeypatch.setattr(installation, "_BATCH", 2)
    first = await make()
    keys = {await first.put() for _ in range(3)}
    left = {await first.leave() for _ in range(2)}
    assert await first.files.sweep_orphans() == len(left)
    assert await first.keys() == keys | {installation.OWNER_KEY}
    assert await first.files.sweep_orphans() == 0


async def test_r1_the_owner_does_not_sweep_what_another_database_stored(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await make(), await make("second")
    await first.files.sweep_orphans()
    await second.files.sweep_orphans()
    keys = {await first.put(), await first.leave(), await second.put()}
    assert await first.files.sweep_orphans() == 0
    assert keys < await first.keys()
    assert refusals(caplog)[1:] == ["another database used the store"]
    await first.blobs.delete(installation.SHARED_KEY)  # as an operator does, in the end
    assert await first.files.sweep_orphans() == 2


@pytest.mark.parametrize("names", [("", ""), ("", "second")], ids=["one", "two databases"])
async def test_of_first_sweeps_at_once_one_database_wins(make: Make, names: list[str]) -> None:
    """R1: several processes of one database are one installation; two databases are not."""
    stores = [await make(name) for name in names for _ in range(2)]
    allowed = await asyncio.gather(
        *(installation.may_sweep(store.database, store.blobs, Quota()) for store in stores)
    )
    ids = [await installation.own_id(store.database, Quota()) for store in stores]
    marker = b"".join([chunk async for chunk in stores[0].blobs.read(installation.OWNER_KEY)])
    winners = {own for own, may in zip(ids, allowed, strict=True) if may}
    assert len(set(ids)) == len(set(names))
    if len(set(names)) == 1:
        assert all(allowed)
    assert winners <= {marker.decode()} <= set(ids)


async def test_an_installation_has_one_id(make: Make) -> None:
    stores = [await make() for _ in range(4)]
    ids = await asyncio.gather(
        *(installation.own_id(store.database, Quota()) for store in stores for _ in range(3))
    )
    assert is_id(ids[0])
    assert len(set(ids)) == 1
    async with stores[0].database.read() as session:
        assert await session.scalar(select(func.count()).select_from(Installation)) == 1


async def test_the_markers_are_no_orphans(make: Make) -> None:
    """Not even where an organisation has the name of their folder."""
    store = await make()
    async with store.database.unit() as session:
        session.add(Organisation(id="recto", name="recto", created_at=1))
    for _ in range(2):
        await store.files.sweep_orphans()
    assert await store.keys() == {installation.OWNER_KEY}
