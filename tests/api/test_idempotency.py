"""``Idempotency-Key`` on uploads, over ASGI, on both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from files_api.app import FilesService
from files_api.settings import FilesSettings
from files_api.tables import IdempotencyRow, Organisation, StoredFileRow
from ocr_api.migrations import upgrade
from tests.files_service import asking, blobs

PDF = b"%PDF-1.7\n" + b"recto " * 500


@pytest.fixture
async def service(tmp_path: Path, database_url: str) -> AsyncIterator[FilesService]:
    settings = FilesSettings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        max_file_bytes=64 * 1024,
        max_org_uploads=50,
    )
    made = FilesService(settings)
    await made.open(upgrade)
    yield made
    await made.close()


@pytest.fixture
async def client(service: FilesService) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as made:
        yield made


async def send(
    client: httpx.AsyncClient, key: str = "k", name: str = "a.pdf", body: bytes = PDF, **fields: str
) -> httpx.Response:
    return await client.post(
        "/v1/files",
        files={"file": (name, body)},
        data=fields,
        headers={"Idempotency-Key": key},
    )


async def count(service: FilesService, table: Any) -> int:
    async with service.database.read() as session:
        return (await session.execute(select(func.count()).select_from(table))).scalar_one()


def check_error(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == code


async def test_fifty_at_once_make_one_file(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """R20: same key fifty times: one file, every 200 the same, every other a 409 that says when."""
    answers = await asyncio.gather(*(send(client) for _ in range(50)))
    done = [answer for answer in answers if answer.status_code == 200]
    busy = [answer for answer in answers if answer.status_code != 200]
    assert done
    assert len({answer.content for answer in done}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in done) == 1
    for answer in busy:
        check_error(answer, 409, "idempotency_key_in_use")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert len(blobs(service)) == await count(service, StoredFileRow) == 1
    again = await send(client)
    assert (again.content, again.headers["idempotent-replayed"]) == (done[0].content, "true")


async def test_a_repeated_request_may_cut_its_form_elsewhere(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """What counts is what was asked: not the boundary, nor the order of the parts."""
    bodies = []
    for boundary, file_first in ((b"XX", True), (b"another-boundary", False)):
        parts = [
            b'name="file"; filename="a.pdf"\r\n\r\n' + PDF,
            b'name="purpose"\r\n\r\nbatch',
            b'name="expiry"\r\n\r\n2',
        ]
        body = b"".join(
            b"--%s\r\nContent-Disposition: form-data; %s\r\n" % (boundary, part)
            for part in (parts if file_first else parts[::-1])
        )
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary.decode()}",
            "Idempotency-Key": "k",
        }
        content = body + b"--%s--\r\n" % boundary
        answer = await client.post("/v1/files", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        bodies.append(answer.content)
    assert bodies[0] == bodies[1]
    assert len(blobs(service)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"body": PDF + b"!"},
        {"name": "b.pdf"},
        {"purpose": "batch"},
        {"visibility": "user"},
        {"expiry": "1"},
        {"expires_after[seconds]": "3600"},
    ],
)
async def test_a_key_is_for_one_thing(
    client: httpx.AsyncClient, service: FilesService, other: dict[str, Any]
) -> None:
    first = await send(client)
    check_error(await send(client, **other), 422, "idempotency_key_reused")
    assert (await send(client)).content == first.content
    assert len(blobs(service)) == await count(service, StoredFileRow) == 1


async def test_a_failed_request_can_be_sent_again(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """A refusal is not remembered: the same key may try again, with something else too."""
    check_error(await send(client, purpose="o c r"), 422, "validation_error")
    check_error(await send(client, body=b"x" * 65 * 1024), 413, "too_large")
    missing = await client.post("/v1/files", content=b"", headers={"Idempotency-Key": "k"})
    check_error(missing, 400, "invalid_request")
    assert await count(service, IdempotencyRow) == 0
    assert (await send(client)).status_code == 200


async def test_a_client_that_leaves_gives_its_key_back(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """R2, R20."""
    app = client._transport.app  # type: ignore[attr-defined]
    half = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + PDF
    headers = [(b"content-type", b"multipart/form-data; boundary=XX"), (b"idempotency-key", b"k")]
    headers.append((b"host", b"127.0.0.1"))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/files", "raw_path": b"/v1/files", "query_string": b"", "headers": headers,
        "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    messages = [
        {"type": "http.request", "body": half, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def sent(message: dict[str, Any]) -> None:
        pass

    await app(scope, receive, sent)
    assert await count(service, IdempotencyRow) == 0
    assert blobs(service) == []
    assert (await send(client)).status_code == 200


async def test_a_request_that_lost_its_claim_leaves_nothing(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """R20: who was taken for dead does not do it a second time."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
        yield head + PDF[:100]
        begun.set()
        await go_on.wait()
        yield PDF[100:] + b"\r\n--XX--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=XX", "Idempotency-Key": "k"}
    first = asyncio.create_task(client.post("/v1/files", content=slow(), headers=headers))
    await begun.wait()
    check_error(await send(client), 409, "idempotency_key_in_use")
    async with service.database.unit() as session:
        await session.execute(update(IdempotencyRow).values(claimed_at=1))
    second = await send(client)
    assert second.status_code == 200
    go_on.set()
    check_error(await first, 409, "idempotency_key_in_use")
    assert (await send(client)).content == second.content
    assert len(blobs(service)) == await count(service, StoredFileRow) == 1
    async with service.database.read() as session:
        assert (await session.execute(select(Organisation.stored_files))).scalar_one() == 1


async def test_an_answer_is_repeated_although_the_quota_is_used_up(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """What is done is done; nothing more is stored."""
    first = await send(client)
    async with service.database.unit() as session:
        await session.execute(update(Organisation).values(max_files=1))
    assert (await send(client)).content == first.content
    check_error(await send(client, "other"), 403, "quota_exceeded")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "é"])
async def test_what_is_no_key(client: httpx.AsyncClient, service: FilesService, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    answer = await client.post("/v1/files", files={"file": ("a.pdf", PDF)}, headers=headers)
    check_error(answer, 422, "validation_error")
    assert answer.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    assert blobs(service) == []


async def test_two_keys_are_refused_and_the_longest_is_taken(client: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await client.post("/v1/files", files={"file": ("a.pdf", PDF)}, headers=headers)
    check_error(answer, 422, "validation_error")
    for key in ("~" * 255, "two words", "!"):
        assert (await send(client, key)).status_code == 200, key


async def test_without_a_key_each_request_makes_a_file(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    for _ in range(2):
        answer = await client.post("/v1/files", files={"file": ("a.pdf", PDF)})
        assert "idempotent-replayed" not in answer.headers
    assert await count(service, StoredFileRow) == 2


async def test_openapi_documents_the_header(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    post = document["paths"]["/v1/files"]["post"]
    assert [parameter["name"] for parameter in post["parameters"]] == ["Idempotency-Key"]
    assert {"403", "408", "409", "429"} <= post["responses"].keys()
    content = document["paths"]["/v1/files/{file_id}/content"]["get"]["responses"]
    assert {"200", "206", "304", "307", "403", "404", "416"} <= content.keys()
