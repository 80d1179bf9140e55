"""The Uploads API over ASGI: shapes, refusals, replays."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from files_api.app import FilesService
from files_api.files.installation import MARKERS
from files_api.kit.web import FrontDoor
from files_api.routes import router
from files_api.settings import FilesSettings
from ocr_api.migrations import upgrade
from tests.files_service import asking

PDF = b"%PDF-1.7\n" + b"recto " * 1000
UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
MOST = 2**20
UPLOAD_KEYS = {
    "id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status", "file",
}  # fmt: skip
FILE_KEYS = {
    "id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status",
    "status_details", "sample_type", "source", "num_lines", "mimetype", "signature",
    "visibility", "deleted",
}  # fmt: skip
WANTED = {"bytes": len(PDF), "filename": "a.pdf", "mime_type": "application/pdf", "purpose": "ocr"}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[FilesService]:
    settings = FilesSettings(
        data_dir=tmp_path / "data",
        max_upload_bytes=MOST,
        max_file_bytes=100,
        max_org_bytes=2 * MOST,
        max_org_uploads=2,
    )
    made = FilesService(settings)
    await made.open(upgrade)
    yield made
    await made.close()


@pytest.fixture
async def client(service: FilesService) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as made:
        yield made


async def begin(client: httpx.AsyncClient, **facts: Any) -> dict[str, Any]:
    answer = await client.post("/v1/uploads", json={**WANTED, **facts})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def add(client: httpx.AsyncClient, upload_id: str, data: bytes = PDF) -> dict[str, Any]:
    answer = await send(client, upload_id, data)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def send(
    client: httpx.AsyncClient, upload_id: str, data: bytes = PDF, **headers: str
) -> httpx.Response:
    form = {"data": ("upload", data, "application/octet-stream")}
    path = f"/v1/uploads/{upload_id}/parts"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, files=form, headers=named)


async def complete(client: httpx.AsyncClient, upload_id: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/uploads/{upload_id}/complete", json=body)


def refused(answer: httpx.Response, status: int, code: str, param: str | None) -> str:
    """Check an error in the superset; return its message."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    return str(error["message"])


def left_over(service: FilesService) -> list[Path]:
    root = service.settings.data_dir / "blobs"
    files = {path for path in root.rglob("*") if path.is_file()}
    return sorted(files - {root / marker for marker in MARKERS})


async def test_the_whole_way(client: httpx.AsyncClient, service: FilesService) -> None:
    upload = await begin(
        client, filename="../ä.pdf", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert set(upload) == UPLOAD_KEYS
    assert upload["expires_at"] == upload["created_at"] + 3600
    assert (upload["object"], upload["bytes"]) == ("upload", len(PDF))
    assert (upload["filename"], upload["purpose"]) == ("ä.pdf", "ocr")
    assert (upload["status"], upload["file"]) == ("pending", None)

    pieces = (PDF[4000:], PDF[:4000])
    last, first = await asyncio.gather(*(add(client, upload["id"], piece) for piece in pieces))
    assert set(first) == {"id", "object", "created_at", "upload_id"}
    assert (first["object"], first["upload_id"]) == ("upload.part", upload["id"])
    assert abs(first["created_at"] - upload["created_at"]) < 60
    assert (await client.get("/v1/files")).json()["data"] == []

    wanted = {"part_ids": [first["id"], last["id"]], "md5": hashlib.md5(PDF).hexdigest()}
    answer = await complete(client, upload["id"], **wanted)
    assert answer.status_code == 200, answer.text
    done = answer.json()
    file = done["file"]
    assert done == {**upload, "status": "completed", "file": file}
    assert set(file) == FILE_KEYS
    assert (file["status"], file["purpose"], file["bytes"]) == ("processed", "ocr", len(PDF))
    assert file["signature"] == hashlib.sha256(PDF).hexdigest()
    assert file["expires_at"] == file["created_at"] + 3600
    assert (await client.get(f"/v1/files/{file['id']}")).json() == file
    assert (await client.get(f"/v1/files/{file['id']}/content")).content == PDF
    assert len(left_over(service)) == 1

    assert (await complete(client, upload["id"], **wanted)).json() == done
    answer = await client.post(f"/v1/uploads/{upload['id']}/cancel")
    assert "completed" in refused(answer, 400, "upload_closed", None)
    refused(await send(client, upload["id"]), 400, "upload_closed", None)


async def test_cancel(client: httpx.AsyncClient, service: FilesService) -> None:
    upload = await begin(client)
    part = await add(client, upload["id"])
    for _ in range(2):
        answer = await client.post(f"/v1/uploads/{upload['id']}/cancel")
        assert answer.status_code == 200
        assert answer.json() == {**upload, "status": "cancelled"}
    assert left_over(service) == []
    answer = await complete(client, upload["id"], part_ids=[part["id"]])
    refused(answer, 400, "upload_closed", None)


@pytest.mark.parametrize(
    ("facts", "status", "code", "param"),
    [
        ({"bytes": 0}, 422, "validation_error", "bytes"),
        ({"bytes": -1}, 422, "validation_error", "bytes"),
        ({"bytes": "x"}, 422, "validation_error", "bytes"),
        ({"bytes": None}, 422, "validation_error", "bytes"),
        ({"bytes": MOST + 1}, 413, "too_large", "bytes"),
        ({"bytes": 2**62}, 413, "too_large", "bytes"),
        ({"filename": 1}, 422, "validation_error", "filename"),
        ({"filename": None}, 422, "validation_error", "filename"),
        ({"mime_type": "a\0b"}, 422, "validation_error", "mime_type"),
        ({"mime_type": "é"}, 422, "validation_error", "mime_type"),
        ({"mime_type": "x\n"}, 422, "validation_error", "mime_type"),
        ({"mime_type": "x" * 128}, 422, "validation_error", "mime_type"),
        ({"purpose": ""}, 422, "validation_error", "purpose"),
        ({"purpose": "a b"}, 422, "validation_error", "purpose"),
        ({"purpose": "ocr\n"}, 422, "validation_error", "purpose"),
        ({"purpose": "x" * 65}, 422, "validation_error", "purpose"),
        ({"purpose": None}, 422, "validation_error", "purpose"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}},
         422, "validation_error", "expires_after.anchor"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3599}},
         422, "validation_error", "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
         422, "validation_error", "expires_after.seconds"),
        ({"expires_after": 3600}, 422, "validation_error", "expires_after"),
    ],
)  # fmt: skip
async def test_what_cannot_be_opened(
    client: httpx.AsyncClient, facts: dict[str, Any], status: int, code: str, param: str
) -> None:
    """R9."""
    refused(await client.post("/v1/uploads", json={**WANTED, **facts}), status, code, param)


async def test_bodies_that_are_no_json_of_ours(client: httpx.AsyncClient) -> None:
    """R9."""
    upload = await begin(client)
    for path in ("/v1/uploads", f"/v1/uploads/{upload['id']}/complete"):
        for body, status, code in (
            (b"", 400, "invalid_json"),
            (b"{", 400, "invalid_json"),
            (b'{"filename": "\\ud800"}', 400, "invalid_json"),
            (b"[]", 422, "validation_error"),
            (b"[" * 200_000, 400, "invalid_request"),
            (b" " * (2**20 + 1), 413, "too_large"),
        ):
            refused(await client.post(path, content=body), status, code, None)
    assert (await client.get(f"/v1/uploads/{upload['id']}")).status_code in {404, 405}


async def test_names_are_cleaned(client: httpx.AsyncClient) -> None:
    upload = await begin(client, filename="/etc/x\0\u202e\r\n.pdf", mime_type="")
    assert upload["filename"] == "x.pdf"
    assert (await begin(client, filename=""))["filename"] == "upload"


async def test_the_quota_and_its_refusal(client: httpx.AsyncClient) -> None:
    first = await begin(client, bytes=MOST)
    await begin(client, bytes=MOST)
    answer = await client.post("/v1/uploads", json={**WANTED, "bytes": 1})
    refused(answer, 403, "quota_exceeded", None)
    await client.post(f"/v1/uploads/{first['id']}/cancel")
    await begin(client, bytes=1)


@pytest.mark.parametrize("route", ["parts", "complete", "cancel"])
async def test_ids(client: httpx.AsyncClient, route: str) -> None:
    """R12."""

    async def ask(upload_id: str) -> httpx.Response:
        if route == "parts":
            return await send(client, upload_id)
        body = {"part_ids": []} if route == "complete" else None
        return await client.post(f"/v1/uploads/{upload_id}/{route}", json=body)

    refused(await ask(UNKNOWN), 404, "upload_not_found", "upload_id")
    assert "upload id" in refused(await ask("x"), 400, "invalid_file_id", "upload_id")
    refused(await ask("x%00"), 400, "invalid_file_id", "upload_id")
    # Not an id of anything else either.
    upload = await begin(client)
    part = await add(client, upload["id"])
    refused(await ask(part["id"]), 404, "upload_not_found", "upload_id")


async def test_what_is_incomplete_is_said(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    part = (await add(client, upload["id"]))["id"]
    for body, words, param in (
        ({"part_ids": [part, UNKNOWN]}, UNKNOWN, "part_ids"),
        ({"part_ids": ["\0"]}, "no part", "part_ids"),
        ({"part_ids": [part, part]}, "twice", "part_ids"),
        ({"part_ids": []}, "0 bytes", "part_ids"),
        ({"part_ids": [part], "md5": "0" * 32}, "md5", "md5"),
    ):
        answer = await complete(client, upload["id"], **body)
        assert words in refused(answer, 400, "upload_incomplete", param)
    for body, param in (
        ({}, "part_ids"),
        ({"part_ids": "x"}, "part_ids"),
        ({"part_ids": [1]}, "part_ids.0"),
        ({"part_ids": [part] * 10_001}, "part_ids"),
        ({"part_ids": [part], "md5": "xyz"}, "md5"),
        ({"part_ids": [part], "md5": 1}, "md5"),
    ):
        answer = await complete(client, upload["id"], **body)
        refused(answer, 422, "validation_error", param)
    answer = await complete(client, upload["id"], part_ids=[part], md5=None)
    assert answer.json()["status"] == "completed"


def form(*parts: tuple[str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    return (
        b"".join(
            b"--XX\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value)
            for head, value in parts
        )
        + end
    )


async def test_forms(client: httpx.AsyncClient, service: FilesService) -> None:
    """R2, R9: a form that is not whole leaves nothing, also after its last byte of data."""
    upload = await begin(client)
    path, data = f"/v1/uploads/{upload['id']}/parts", 'name="data"; filename="upload"'

    async def post(body: bytes) -> httpx.Response:
        kind = {"Content-Type": "multipart/form-data; boundary=XX"}
        return await client.post(path, content=body, headers=kind)

    for body, status, code, param in (
        (b"", 400, "invalid_request", None),
        (form((data, PDF), end=b""), 400, "invalid_request", None),
        (form((data, PDF), end=b"--XX\r\nrubbish"), 400, "invalid_request", None),
        (form((data, b"1"), (data, b"2")), 400, "invalid_request", "data"),
        (form(('name="data"', b"x")), 400, "invalid_request", "data"),
        (form(('name="file"; filename="a"', b"x")), 422, "validation_error", "data"),
        (form((data, PDF + PDF + b"x")), 413, "too_large", "data"),
    ):
        refused(await post(body), status, code, param)
        assert left_over(service) == [], body[:100]
    answer = await client.post(path, json={"data": "x"})
    refused(answer, 400, "invalid_request", None)

    other = ('name="other"; filename="b"', b"ignored")
    answer = await post(form(("name=note", b"ignored"), other, (data, PDF), other))
    assert answer.status_code == 200, answer.text
    done = await complete(client, upload["id"], part_ids=[answer.json()["id"]])
    file = done.json()["file"]["id"]
    assert (await client.get(f"/v1/files/{file}/content")).content == PDF


async def test_a_client_that_leaves_half_way(service: FilesService) -> None:
    """R2."""
    app = FastAPI()
    app.include_router(router())
    service.attach(app)
    upload = await service.uploads.open(service.local, 100, "a", "", "ocr")
    body = form(('name="data"; filename="upload"', b"x" * 50), end=b"")
    messages = [
        {"type": "http.request", "body": body[:-20], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def keep(message: Any) -> None:
        sent.append(message)

    path = f"/v1/uploads/{upload.id}/parts"
    kind = b"multipart/form-data; boundary=XX"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", kind)],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await FrontDoor(app)(scope, receive, keep)  # type: ignore[arg-type]
    assert sent[0]["status"] == 499
    assert left_over(service) == []


async def test_so_many_parts_at_once(client: httpx.AsyncClient, service: FilesService) -> None:
    upload = await begin(client)
    limits = service.limits
    with limits.uploading(service.local), limits.uploading(service.local):
        answer = await send(client, upload["id"])
        refused(answer, 429, "rate_limit_exceeded", None)
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    await add(client, upload["id"])


async def test_idempotency_keys(client: httpx.AsyncClient, service: FilesService) -> None:
    """R20: one upload and one part, however often they are asked for."""
    key = {"Idempotency-Key": "once"}
    first = await client.post("/v1/uploads", json=WANTED, headers=key)
    again = await client.post("/v1/uploads", json=WANTED, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await client.post("/v1/uploads", json={**WANTED, "filename": "b"}, headers=key)
    refused(other, 422, "idempotency_key_reused", None)

    upload_id = first.json()["id"]
    part = await send(client, upload_id, PDF, Idempotency_Key="once")
    again = await send(client, upload_id, PDF, Idempotency_Key="once")
    assert (again.status_code, again.json()) == (200, part.json())
    assert len(left_over(service)) == 1
    other = await send(client, upload_id, PDF[1:], Idempotency_Key="once")
    refused(other, 422, "idempotency_key_reused", None)
    # What fails is not remembered.
    missing = await send(client, UNKNOWN, PDF, Idempotency_Key="twice")
    refused(missing, 404, "upload_not_found", "upload_id")
    missing = await send(client, UNKNOWN, PDF, Idempotency_Key="twice")
    refused(missing, 404, "upload_not_found", "upload_id")
    done = await complete(client, upload_id, part_ids=[part.json()["id"]])
    assert done.json()["status"] == "completed"


async def test_replays_at_the_same_time(client: httpx.AsyncClient) -> None:
    """R20."""
    upload = await begin(client)
    part = await add(client, upload["id"])
    body = {"part_ids": [part["id"]]}
    answers = await asyncio.gather(*(complete(client, upload["id"], **body) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert (await client.get("/v1/files?include_total=true")).json()["total"] == 1


async def test_openapi_says_what_is_answered() -> None:
    app = FastAPI()
    app.include_router(router())
    paths = app.openapi()["paths"]
    routes = {path: paths[path]["post"] for path in paths if path.startswith("/v1/uploads")}
    assert set(routes) == {
        "/v1/uploads",
        "/v1/uploads/{upload_id}/parts",
        "/v1/uploads/{upload_id}/complete",
        "/v1/uploads/{upload_id}/cancel",
    }
    opened = routes["/v1/uploads"]
    assert {"200", "400", "403", "409", "413", "422", "507"} <= set(opened["responses"])
    assert [named["name"] for named in opened["parameters"]] == ["Idempotency-Key"]
    schema = opened["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["bytes", "filename", "mime_type", "purpose"]
    assert "$ref" not in str(schema)
    part = routes["/v1/uploads/{upload_id}/parts"]
    assert {"200", "400", "404", "413", "422", "429", "507"} <= set(part["responses"])
    assert [named["name"] for named in part["parameters"]] == ["upload_id", "Idempotency-Key"]
    for route in routes.values():
        answered = route["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        assert answered.rsplit("/", 1)[1] in {"UploadObject", "PartObject"}
