"""The quota of an organisation over the Files API, on both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from files_api.app import FilesService
from files_api.kit.errors import RateLimited
from files_api.settings import FilesSettings
from files_api.tables import Organisation, StoredFileRow
from ocr_api.migrations import upgrade
from tests.files_service import asking, blobs

PDF = b"%PDF-1.7\n" + b"recto " * 500
MIB = 2**20


@pytest.fixture
async def service(tmp_path: Path, database_url: str) -> AsyncIterator[FilesService]:
    made = FilesService(
        FilesSettings(
            data_dir=tmp_path / "data",
            database_url=database_url,
            max_file_bytes=32 * MIB,
            max_org_bytes=3 * len(PDF),
            max_org_files=10,
        )
    )
    await made.open(upgrade)
    yield made
    await made.close()


@pytest.fixture
async def client(service: FilesService) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as made:
        yield made


async def send(client: httpx.AsyncClient, body: bytes = PDF, **fields: str) -> httpx.Response:
    return await client.post("/v1/files", files={"file": ("a.pdf", body)}, data=fields)


async def stored(service: FilesService) -> tuple[int, int]:
    async with service.database.read() as session:
        query = select(Organisation.stored_bytes, Organisation.stored_files)
        size, files = (await session.execute(query)).one()
        return size, files


def check_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 403, answer.text
    assert answer.json()["code"] == "quota_exceeded"
    assert answer.json()["type"] == "permission_error"


async def test_the_last_place_is_given_once(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    await asyncio.gather(send(client), send(client))
    answers = await asyncio.gather(*(send(client) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403, 403]
    for answer in answers:
        if answer.status_code == 403:
            check_refused(answer)
    assert len(blobs(service)) == 3
    assert await stored(service) == (3 * len(PDF), 3)


async def test_what_is_deleted_or_expired_makes_room(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    ids = [(await send(client)).json()["id"] for _ in range(3)]
    check_refused(await send(client))
    for _ in range(2):  # the second finds nothing, and gives nothing back
        await client.delete(f"/v1/files/{ids[0]}")
    assert await stored(service) == (2 * len(PDF), 2)
    assert (await send(client)).status_code == 200
    check_refused(await send(client))


async def test_an_expired_file_takes_no_room_although_no_sweep_came(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    first, *_ = [(await send(client)).json()["id"] for _ in range(3)]
    check_refused(await send(client))
    async with service.database.unit() as session:
        past = update(StoredFileRow).where(StoredFileRow.id == first).values(expires_at=1)
        await session.execute(past)
    assert (await client.get(f"/v1/files/{first}")).status_code == 404
    assert (await send(client)).status_code == 200
    check_refused(await send(client))
    assert len(blobs(service)) == 3
    assert await stored(service) == (3 * len(PDF), 3)


async def test_a_file_that_is_too_large_in_the_end_leaves_nothing(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    await send(client)
    check_refused(await send(client, PDF * 2 + b"!"))
    assert len(blobs(service)) == 1
    assert (await send(client, PDF * 2)).status_code == 200


async def test_without_room_nothing_is_received(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """By what the client declares, and where the organisation is full already."""
    pulled = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pulled
        pulled += 1
        yield b"x" * 1000

    headers = {"Content-Type": "multipart/form-data; boundary=XX"}
    large = {**headers, "Content-Length": str(20 * MIB)}
    check_refused(await client.post("/v1/files", content=body(), headers=large))
    async with service.database.unit() as session:
        await session.execute(update(Organisation).values(max_files=0, stored_bytes=3 * len(PDF)))
    check_refused(await client.post("/v1/files", content=body(), headers=headers))
    assert pulled == 0


async def test_an_empty_file_counts_as_a_file(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    for _ in range(10):
        assert (await send(client, b"")).status_code == 200
    check_refused(await send(client, b""))
    assert await stored(service) == (0, 10)


async def test_bytes_are_counted_as_they_come_and_an_upload_that_is_cut_leaves_nothing(
    client: httpx.AsyncClient, service: FilesService, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0

    def take_bytes(_: object, size: int) -> None:
        nonlocal counted
        counted += size
        if counted > 2000:
            raise RateLimited(seconds=7)

    monkeypatch.setattr(service.limits, "take_bytes", take_bytes)

    async def body() -> AsyncIterator[bytes]:
        yield b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while True:
            yield b"x" * 500

    headers = {"Content-Type": "multipart/form-data; boundary=XX", "Idempotency-Key": "k"}
    answer = await client.post("/v1/files", content=body(), headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert 2000 < counted <= 2500
    assert blobs(service) == []
    counted = -10_000
    again = await client.post(
        "/v1/files", files={"file": ("a.pdf", PDF)}, headers={"Idempotency-Key": "k"}
    )
    assert again.status_code == 200
