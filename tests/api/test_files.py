"""The Files API over ASGI, as OpenAI's, Mistral's and Nebul's clients call it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from files_api import app as files_app
from files_api.accounts import LOCAL_ORG_ID, Organisations
from files_api.app import FilesService
from files_api.kit.errors import StorageUnavailable
from files_api.kit.web import FrontDoor
from files_api.routes import router
from files_api.settings import FilesSettings
from ocr_api.migrations import upgrade
from tests.files_service import asking

PDF = b"%PDF-1.7\n" + b"recto " * 1000
MOST = 64 * 1024
UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
OBJECT_KEYS = {
    "id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status",
    "status_details", "sample_type", "source", "num_lines", "mimetype", "signature",
    "visibility", "deleted",
}  # fmt: skip


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[FilesService]:
    made = FilesService(FilesSettings(data_dir=tmp_path / "data", max_file_bytes=MOST))
    await made.open(upgrade)
    # Swept here, not beside the test, which looks at what lies in the store.
    assert made._sweeping
    made._sweeping.cancel()
    await asyncio.wait({made._sweeping})
    await made.sweep()
    yield made
    await made.close()


@pytest.fixture
async def client(service: FilesService) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as made:
        yield made


async def send(
    client: httpx.AsyncClient, name: str = "scan.pdf", body: bytes = PDF, **fields: str
) -> dict[str, Any]:
    answer = await client.post("/v1/files", files={"file": (name, body)}, data=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def form(*parts: tuple[str, bytes], boundary: bytes = b"XX") -> bytes:
    body = b"".join(
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (boundary, head.encode(), value)
        for head, value in parts
    )
    return body + b"--%s--\r\n" % boundary


def left_over(service: FilesService) -> list[Path]:
    root = service.settings.data_dir / "blobs"
    own = root / "recto"  # what the service keeps for itself
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if own not in path.parents]


async def post(client: httpx.AsyncClient, body: bytes, kind: str = "XX") -> httpx.Response:
    headers = {"Content-Type": f"multipart/form-data; boundary={kind}"}
    return await client.post("/v1/files", content=body, headers=headers)


def check_error(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["code"] == body["error"]["code"] == code
    assert isinstance(body["detail"], list if status == 422 else str)
    assert answer.headers["x-request-id"]


async def test_an_upload_answers_the_whole_file_object(client: httpx.AsyncClient) -> None:
    body = await send(client, purpose="ocr")
    assert body.keys() == OBJECT_KEYS
    assert body["object"] == "file"
    assert body["bytes"] == len(PDF)
    assert body["filename"] == "scan.pdf"
    assert body["status"] == "complete"
    assert body["sample_type"] == "ocr_input"
    assert body["source"] == "upload"
    assert body["mimetype"] == "application/pdf"
    assert body["signature"] == hashlib.sha256(PDF).hexdigest()
    assert body["expires_at"] is None
    assert body["deleted"] is False
    again = (await client.get(f"/v1/files/{body['id']}")).json()
    assert again == {**body, "status": "processed"}


async def test_a_missing_purpose_means_ocr_and_others_are_processed_at_once(
    client: httpx.AsyncClient,
) -> None:
    assert (await send(client))["purpose"] == "ocr"
    other = await send(client, purpose="batch")
    assert (other["purpose"], other["status"]) == ("batch", "processed")
    assert other["sample_type"] == "batch_request"


@pytest.mark.parametrize("file_first", [True, False])
async def test_the_parts_may_come_in_any_order(client: httpx.AsyncClient, file_first: bool) -> None:
    file = ('name="file"; filename="a.pdf"', PDF)
    fields = [
        ('name="expiry"', b"2"),
        ('name="visibility"', b"user"),
        ('name="purpose"', b"batch"),
        ('name="something"', b"else"),
    ]
    parts = [file, *fields] if file_first else [*fields, file]
    answer = await post(client, form(*parts))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["purpose"] == "batch"
    assert body["visibility"] == "user"
    assert body["expires_at"] == body["created_at"] + 7200


async def test_expiry_the_openai_way(client: httpx.AsyncClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    body = await send(client, **fields)
    assert body["expires_at"] == body["created_at"] + 3600


async def test_of_two_expiries_the_earlier_counts(client: httpx.AsyncClient) -> None:
    for hours, seconds, lives in (("1", "7200", 3600), ("3", "7200", 7200)):
        body = await send(client, expiry=hours, **{"expires_after[seconds]": seconds})
        assert body["expires_at"] == body["created_at"] + lives


async def test_half_an_expiry_is_refused(client: httpx.AsyncClient, service: FilesService) -> None:
    """A known field is never dropped silently."""
    answer = await client.post(
        "/v1/files",
        files={"file": ("a.pdf", PDF)},
        data={"expires_after[anchor]": "created_at"},
    )
    check_error(answer, 422, "validation_error")
    assert answer.json()["param"] == "expires_after[seconds]"
    assert left_over(service) == []


@pytest.mark.parametrize("purpose", ["assistants", "vision", "user_data", "evals", "x_y-Z9"])
async def test_purposes_are_an_open_list(client: httpx.AsyncClient, purpose: str) -> None:
    body = await send(client, purpose=purpose)
    assert (body["purpose"], body["status"], body["sample_type"]) == (
        purpose,
        "processed",
        "ocr_input",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purpose", ""),
        ("purpose", "o c r"),
        ("visibility", "world"),
        ("expiry", "0"),
        ("expiry", "soon"),
        ("expiry", "-1"),
        ("expiry", "1" * 30),
        ("expiry", "٣"),
        ("expires_after[seconds]", "3599"),
        ("expires_after[seconds]", "2592001"),
        ("expires_after[anchor]", "now"),
        ("expires_after", '{"anchor": "created_at", "seconds": 3600}'),
    ],
)
@pytest.mark.parametrize("file_first", [True, False])
async def test_bad_fields_are_refused_and_leave_nothing(
    client: httpx.AsyncClient, service: FilesService, field: str, value: str, file_first: bool
) -> None:
    parts = [('name="file"; filename="a.pdf"', PDF), (f'name="{field}"', value.encode())]
    answer = await post(client, form(*(parts if file_first else reversed(parts))))
    check_error(answer, 422, "validation_error")
    assert answer.json()["param"] == field
    assert answer.json()["detail"][0]["loc"] == ["body", field]
    assert left_over(service) == []


async def test_names_are_data(client: httpx.AsyncClient) -> None:
    names = {
        "Überschuß.pdf": "Überschuß.pdf",
        "../../etc/passwd": "passwd",
        "C:\\scans\\a.pdf": "a.pdf",
        "..": "upload",
        "u\u0308.pdf": "ü.pdf",
        "evil\u202efdp.exe": "evilfdp.exe",
        "a" * 300 + ".pdf": "a" * 251 + ".pdf",
    }
    for sent, kept in names.items():
        body = form((f'name="file"; filename="{sent}"', PDF))
        answer = await post(client, body)
        assert answer.json()["filename"] == kept, sent


async def test_an_rfc_5987_name_wins(client: httpx.AsyncClient) -> None:
    head = 'name="file"; filename="euro.pdf"; filename*=UTF-8\'\'%e2%82%ac.pdf'
    assert (await post(client, form((head, PDF)))).json()["filename"] == "€.pdf"


async def test_an_empty_file_is_stored(client: httpx.AsyncClient) -> None:
    body = await send(client, "empty.pdf", b"")
    assert (body["bytes"], body["mimetype"]) == (0, "application/octet-stream")
    assert (await client.get(f"/v1/files/{body['id']}/content")).content == b""


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (form(('name="purpose"', b"ocr")), 422, "validation_error"),
        (form(('name="file"', PDF)), 400, "invalid_request"),
        (form(*[('name="file"; filename="a.pdf"', PDF)] * 2), 400, "invalid_request"),
        (form(('name="file"; filename="a.pdf"', PDF))[:-7], 400, "invalid_request"),
        (form(('name="file"; filename="a.pdf"', PDF))[:400], 400, "invalid_request"),
        (form(('filename="a.pdf"', PDF)), 400, "invalid_request"),
        (b"", 400, "invalid_request"),
        (b"hello", 400, "invalid_request"),
        (form(*[('name="x"', b"1")] * 101), 400, "invalid_request"),
        (form(('name="x"', b"1" * 70_000)), 400, "invalid_request"),
        (form(('name="x"; y="' + "z" * 9000 + '"', b"1")), 400, "invalid_request"),
        (form(('name="file"; filename="a.pdf"', b"x" * (MOST + 1))), 413, "too_large"),
        (form(('name="other"; filename="a"', b"x" * 9 * 1024 * 1024)), 413, "too_large"),
    ],
)
async def test_bad_forms_are_refused_and_leave_nothing(
    client: httpx.AsyncClient, service: FilesService, body: bytes, status: int, code: str
) -> None:
    check_error(await post(client, body), status, code)
    assert left_over(service) == []
    assert (await client.get("/v1/files")).json()["data"] == []


@pytest.mark.parametrize(
    "kind",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 80],
)
async def test_other_content_types_are_refused(client: httpx.AsyncClient, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await client.post("/v1/files", content=b"{}", headers=headers)
    check_error(answer, 400, "invalid_request")


async def test_a_large_file_is_refused_although_no_length_is_declared(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        yield form(('name="file"; filename="a.pdf"', b""))[:-10]
        while True:
            pulled += 1
            yield b"x" * 8192

    headers = {"Content-Type": "multipart/form-data; boundary=XX"}
    answer = await client.post("/v1/files", content=endless(), headers=headers)
    check_error(answer, 413, "too_large")
    assert pulled <= MOST / 8192 + 2
    assert left_over(service) == []


async def test_a_client_that_leaves_half_way_leaves_nothing(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """R2."""
    whole = form(('name="file"; filename="a.pdf"', PDF), ('name="purpose"', b"ocr"))
    app = client._transport.app  # type: ignore[attr-defined]
    headers = [(b"content-type", b"multipart/form-data; boundary=XX")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/files", "raw_path": b"/v1/files", "query_string": b"", "headers": headers,
        "scheme": "http", "server": ("t", 80), "client": ("t", 1), "root_path": "",
    }  # fmt: skip
    for cut in (1, 40, 90, 2000, len(PDF), len(whole) - 3):
        messages = [
            {"type": "http.request", "body": whole[:cut], "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive(messages: list[dict[str, Any]] = messages) -> dict[str, Any]:
            return messages.pop(0)

        async def sent(message: dict[str, Any]) -> None:
            pass

        await app(dict(scope), receive, sent)
    assert left_over(service) == []
    assert (await client.get("/v1/files")).json()["data"] == []


async def test_content_the_owners_way(client: httpx.AsyncClient) -> None:
    body = await send(client, 'naïve "€".pdf'.replace('"', "'"))
    answer = await client.get(f"/v1/files/{body['id']}/content")
    assert answer.status_code == 200
    assert answer.content == PDF
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(PDF))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"na_ve '_'.pdf\"; filename*=UTF-8''na%C3%AFve%20%27%E2%82%AC%27.pdf"
    )


SAFE = {
    "accept-ranges": "bytes",
    "etag": f'"{hashlib.sha256(PDF).hexdigest()}"',
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox",
    "referrer-policy": "no-referrer",
}


def check_safe(answer: httpx.Response) -> None:
    """Headers that every answer with a file has."""
    assert {name: answer.headers.get(name) for name in SAFE} == SAFE
    assert answer.headers["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize("signed", [False, True])
async def test_ranges(client: httpx.AsyncClient, signed: bool) -> None:
    """What download managers and PDF viewers ask for."""
    url = f"/v1/files/{(await send(client))['id']}"
    url = (await client.get(f"{url}/url")).json()["url"] if signed else f"{url}/content"
    size = len(PDF)
    for asked, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=5-99", 5, 99),
        (f"bytes={size - 3}-", size - 3, size - 1),
        ("bytes=-10", size - 10, size - 1),
        ("bytes=100-999999", 100, size - 1),
    ):
        answer = await client.get(url, headers={"Range": asked})
        assert answer.status_code == 206, asked
        assert answer.content == PDF[first : last + 1]
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert answer.headers["content-length"] == str(last - first + 1)
        kind = "application/pdf" if signed else "application/octet-stream"
        assert answer.headers["content-type"] == kind
        check_safe(answer)
    for asked in ("bytes=0-1,5-6", "bytes=x", "lines=1-2", "bytes=5-2"):
        answer = await client.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (200, PDF), asked
        assert "content-range" not in answer.headers
        check_safe(answer)
    for asked in (f"bytes={size}-", "bytes=-0"):
        answer = await client.get(url, headers={"Range": asked})
        check_error(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{size}"


async def test_a_download_is_resumed_only_in_the_same_content(client: httpx.AsyncClient) -> None:
    url = f"/v1/files/{(await send(client))['id']}/content"
    tag = (await client.get(url)).headers["etag"]
    for condition, status in ((tag, 206), ('"other"', 200), (f"W/{tag}", 200)):
        headers = {"Range": "bytes=1-", "If-Range": condition}
        answer = await client.get(url, headers=headers)
        assert answer.status_code == status
        assert answer.content == PDF[1 if status == 206 else 0 :]


async def test_a_content_that_the_client_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    body = await send(client)
    url = f"/v1/files/{body['id']}/content"
    for tags in (SAFE["etag"], f'"a", W/{SAFE["etag"]}', "*"):
        answer = await client.get(url, headers={"If-None-Match": tags, "Range": "bytes=0-1"})
        assert (answer.status_code, answer.content) == (304, b"")
        check_safe(answer)
    assert (await client.get(url, headers={"If-None-Match": '"a"'})).status_code == 200
    await client.delete(f"/v1/files/{body['id']}")
    gone = await client.get(url, headers={"If-None-Match": SAFE["etag"]})
    check_error(gone, 404, "file_not_found")


async def test_head_is_a_download_without_bytes(client: httpx.AsyncClient) -> None:
    body = await send(client)
    url = f"/v1/files/{body['id']}/content"
    answer = await client.head(url, headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(PDF))
    assert answer.headers["content-type"] == "application/octet-stream"
    check_safe(answer)
    assert (await client.head(f"/v1/files/{UNKNOWN}/content")).status_code == 404
    assert (await client.head("/v1/files/nonsense/content")).status_code == 400


async def test_a_range_of_an_empty_file(client: httpx.AsyncClient) -> None:
    body = await send(client, "empty.pdf", b"")
    url = f"/v1/files/{body['id']}/content"
    answer = await client.get(url, headers={"Range": "bytes=0-"})
    check_error(answer, 416, "range_not_satisfiable")
    assert (await client.get(url, headers={"Range": "bytes=-5"})).status_code == 200


async def test_a_store_without_links_streams_although_redirects_are_on(
    client: httpx.AsyncClient,
) -> None:
    client._transport.app.app.state.redirect_downloads = True  # type: ignore[attr-defined]
    body = await send(client)
    url = (await client.get(f"/v1/files/{body['id']}/url")).json()["url"]
    answer = await client.get(url)
    assert (answer.status_code, answer.content) == (200, PDF)


async def test_signed_links_lead_to_the_stores_own_where_that_is_set(
    tmp_path: Path, s3_url: str
) -> None:
    """The bytes come from the store, for no longer than the link lives; a key streams as ever."""
    settings = FilesSettings(data_dir=tmp_path, blob_url=s3_url, redirect_downloads=True)
    service = FilesService(settings)
    await service.open(upgrade)
    app = FastAPI()
    app.include_router(router())
    service.attach(app)
    transport = httpx.ASGITransport(FrontDoor(app))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        httpx.AsyncClient() as anyone,
    ):
        body = await send(client, "rechnung ä.pdf")
        url = (await client.get(f"/v1/files/{body['id']}/url?expiry=1")).json()["url"]
        found = await client.get(url, headers={"Range": "bytes=1-4"})
        assert (found.status_code, found.content) == (307, b"")
        check_safe(found)
        query = parse_qs(urlsplit(found.headers["location"]).query)
        assert 3500 < int(query["X-Amz-Expires"][0]) <= 3600
        answer = await anyone.get(found.headers["location"])
        assert (answer.status_code, answer.content) == (200, PDF)
        assert answer.headers["content-type"] == "application/pdf"
        assert "filename*=UTF-8''rechnung%20%C3%A4.pdf" in answer.headers["content-disposition"]
        part = await anyone.get(found.headers["location"], headers={"Range": "bytes=1-4"})
        assert (part.status_code, part.content) == (206, PDF[1:5])
        same = await client.get(url, headers={"If-None-Match": SAFE["etag"]})
        assert same.status_code == 304
        own = await client.get(f"/v1/files/{body['id']}/content", headers={"Range": "bytes=1-4"})
        assert (own.status_code, own.content) == (206, PDF[1:5])
        check_error(await client.get(url[:-1]), 403, "invalid_signature")
        await client.delete(f"/v1/files/{body['id']}")
        check_error(await client.get(url), 404, "file_not_found")
    await service.close()


async def test_a_signed_link_needs_no_key_and_ends_with_its_file(
    client: httpx.AsyncClient,
) -> None:
    body = await send(client)
    made = (await client.get(f"/v1/files/{body['id']}/url")).json()
    assert made["url"].startswith(f"http://recto.localhost/v1/files/{body['id']}/content?org=")
    expiry = made["expires_at"] - body["created_at"]
    assert 24 * 3600 <= expiry <= 24 * 3600 + 60
    answer = await client.get(made["url"])
    assert answer.content == PDF
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["referrer-policy"] == "no-referrer"
    other_name = made["url"].replace("http://recto.localhost", "http://127.0.0.1:8000/v1")
    assert (await client.get(other_name)).content == PDF
    assert (await client.delete(f"/v1/files/{body['id']}")).json() == {
        "id": body["id"],
        "object": "file",
        "deleted": True,
    }
    gone = await client.get(made["url"])
    check_error(gone, 404, "file_not_found")
    assert gone.json()["param"] == "file_id"


async def test_downloads_by_a_link_are_counted(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    limits = {"requests_per_minute": 4}
    await Organisations(service.database).set_limits(LOCAL_ORG_ID, limits)
    body = await send(client)
    url = (await client.get(f"/v1/files/{body['id']}/url")).json()["url"]
    answers = [await client.get(url) for _ in range(3)]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert left == ["1", "0", "0"]
    assert [answer.content for answer in answers[:2]] == [PDF, PDF]
    check_error(answers[2], 429, "rate_limit_exceeded")


async def test_an_altered_link_is_forbidden(client: httpx.AsyncClient) -> None:
    """R11."""
    body = await send(client)
    other = await send(client)
    url = (await client.get(f"/v1/files/{body['id']}/url?expiry=1")).json()["url"]
    parts = urlsplit(url)
    pairs = dict(pair.split("=", 1) for pair in parts.query.split("&"))
    altered = [url.replace(body["id"], other["id"]), url + "&sig=x", url + "&page=1", url[:-1]]
    altered += [url.replace(f"{key}={value}", f"{key}={value}1") for key, value in pairs.items()]
    altered += [url.replace(f"{key}={value}", "a=b") for key, value in pairs.items()]
    altered += [f"{parts.path}?{key}={value}" for key, value in pairs.items()]
    for link in altered:
        check_error(await client.get(link), 403, "invalid_signature")


@pytest.mark.parametrize("expiry", ["0", "169", "-1", "1.5", "soon", ""])
async def test_a_bad_expiry_of_a_link(client: httpx.AsyncClient, expiry: str) -> None:
    body = await send(client)
    answer = await client.get(f"/v1/files/{body['id']}/url?expiry={expiry}")
    check_error(answer, 422, "validation_error")
    assert answer.json()["param"] == "expiry"


async def test_the_public_url_is_the_base_of_links(tmp_path: Path) -> None:
    settings = FilesSettings(data_dir=tmp_path, public_url="https://ocr.example.org/recto/")
    service = FilesService(settings)
    await service.open(upgrade)
    app = FastAPI()
    app.include_router(router())
    service.attach(app)
    transport = httpx.ASGITransport(FrontDoor(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        body = await send(client)
        url = (await client.get(f"/v1/files/{body['id']}/url")).json()["url"]
        for origin, status in {"https://ocr.example.org": 200, "https://example.org": 403}.items():
            answer = await client.get("/v1/files", headers={"Origin": origin})
            assert answer.status_code == status, origin
    await service.close()
    assert url.startswith(f"https://ocr.example.org/recto/v1/files/{body['id']}/content?")


@pytest.mark.parametrize("tail", ["", "/content", "/url"])
async def test_unknown_and_malformed_ids(client: httpx.AsyncClient, tail: str) -> None:
    unknown = await client.get(f"/v1/files/{UNKNOWN}{tail}")
    check_error(unknown, 404, "file_not_found")
    malformed = await client.get(f"/v1/files/nonsense{tail}")
    check_error(malformed, 400, "invalid_file_id")
    assert unknown.json()["param"] == malformed.json()["param"] == "file_id"


async def test_deleting_what_is_not_there(client: httpx.AsyncClient) -> None:
    unknown = await client.delete(f"/v1/files/{UNKNOWN}")
    check_error(unknown, 404, "file_not_found")
    malformed = await client.delete("/v1/files/nonsense")
    check_error(malformed, 400, "invalid_file_id")
    assert unknown.json()["param"] == malformed.json()["param"] == "file_id"


async def test_listing_the_openai_way(client: httpx.AsyncClient) -> None:
    ids = [(await send(client, f"{number}.pdf"))["id"] for number in range(5)]
    first = (await client.get("/v1/files")).json()
    assert [item["id"] for item in first["data"]] == ids[::-1]
    assert first["object"] == "list"
    assert (first["has_more"], first["total"]) == (False, None)
    assert (first["first_id"], first["last_id"]) == (ids[4], ids[0])
    found: list[str] = []
    after = ""
    while True:  # as openai 1.60.0 does, which ignores has_more
        query = f"?limit=2&order=asc{after}"
        page = (await client.get(f"/v1/files{query}")).json()
        if not page["data"]:
            break
        found += [item["id"] for item in page["data"]]
        assert page["has_more"] == (len(found) < 5)
        after = f"&after={page['last_id']}"
    assert found == ids


async def test_a_place_in_the_list_outlives_its_file(client: httpx.AsyncClient) -> None:
    ids = [(await send(client))["id"] for _ in range(3)]
    await client.delete(f"/v1/files/{ids[1]}")
    page = (await client.get(f"/v1/files?after={ids[1]}")).json()
    assert [item["id"] for item in page["data"]] == [ids[0]]


async def test_listing_the_mistral_way(client: httpx.AsyncClient) -> None:
    ids = [(await send(client))["id"] for _ in range(3)][::-1]
    query = "/v1/files?page={}&page_size=2&include_total=true"
    first = (await client.get(query.format(0))).json()
    second = (await client.get(query.format(1))).json()
    third = (await client.get(query.format(2))).json()
    assert [item["id"] for item in first["data"] + second["data"]] == ids
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (first["total"], third["total"], third["data"]) == (3, 3, [])
    bare = (await client.get("/v1/files?page=0&include_total=false")).json()
    assert (len(bare["data"]), bare["total"]) == (3, None)


async def test_filters(client: httpx.AsyncClient) -> None:
    await send(client, "Invoice_100%.pdf")
    await send(client, "note.txt", b"hello there", purpose="batch")

    async def names(query: str) -> list[str]:
        answer = await client.get(f"/v1/files?{query}")
        assert answer.status_code == 200, answer.text
        return [item["filename"] for item in answer.json()["data"]]

    pdf, text = ["Invoice_100%.pdf"], ["note.txt"]
    assert await names("purpose=ocr") == pdf
    assert await names("purpose=batch") == text
    assert await names("search=invoice") == pdf
    assert await names("search=0%25.") == pdf
    assert await names("search=%25") == pdf
    assert await names("search=%00") == []
    assert await names("sample_type=batch_request&page=0") == text
    assert await names("sample_type=ocr_input&sample_type=batch_request") == text + pdf
    assert await names("source=mistral") == []
    assert await names("source=mistral&source=upload") == text + pdf
    assert await names("mimetypes=application/pdf&mimetypes=image/png") == pdf
    assert await names("mimetypes=text/plain&page_size=5") == text


@pytest.mark.parametrize(
    "query",
    ["page=-1", "page=x", "page_size=0", "limit=0", "limit=10001", "order=up", "after=x",
     "include_total=maybe", "page=99999999999999999999"],
)  # fmt: skip
async def test_bad_list_queries(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/files?{query}")
    check_error(answer, 422, "validation_error")
    assert answer.json()["param"] == query.split("=", maxsplit=1)[0]


async def test_any_organisation_in_a_form_means_the_local_one(client: httpx.AsyncClient) -> None:
    org, other, file = ("org_id", (None, UNKNOWN)), ("org_id", (None, "x")), ("file", ("a", PDF))
    for sent in ([org, file], [file, org], [org, other, file, other]):
        answer = await client.post("/v1/files", files=sent)
        assert answer.status_code == 200, answer.text
        assert (await client.get(f"/v1/files/{answer.json()['id']}")).status_code == 200


async def test_any_key_and_organisation_mean_the_local_one(client: httpx.AsyncClient) -> None:
    body = await send(client)
    headers = {"Authorization": "Bearer whatever", "X-Org-Id": UNKNOWN}
    answer = await client.get(f"/v1/files/{body['id']}", headers=headers)
    assert answer.json()["id"] == body["id"]


async def test_openapi_documents_the_errors_and_the_form(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    post_responses = document["paths"]["/v1/files"]["post"]["responses"]
    assert {"200", "400", "413", "422", "503", "507"} <= post_responses.keys()
    form_type = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]
    assert form_type["multipart/form-data"]["schema"]["required"] == ["file"]
    assert "403" in document["paths"]["/v1/files/{file_id}/content"]["get"]["responses"]
    ids = [
        parameter["schema"]
        for path in document["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "file_id"
    ]
    assert len(ids) == 4
    assert all((schema["type"], schema["format"]) == ("string", "uuid") for schema in ids)


async def test_a_strange_host_header_is_no_server_error(client: httpx.AsyncClient) -> None:
    body = await send(client)
    for host in ("[", "a b", "\x7f", "x:99999"):
        answer = await client.get(f"/v1/files/{body['id']}/url", headers={"Host": host})
        assert answer.status_code in {200, 400}, host


async def test_a_deleted_data_folder_takes_no_uploads(
    client: httpx.AsyncClient, service: FilesService
) -> None:
    """R1: what nobody finds after a restart is not acknowledged."""
    await send(client)
    folder = service.settings.data_dir
    for remade in (False, True):
        shutil.rmtree(folder)
        if remade:
            (folder / "blobs").mkdir(parents=True)
        answer = await client.post("/v1/files", files={"file": ("a.pdf", PDF)})
        check_error(answer, 503, "storage_unavailable")
        with pytest.raises(StorageUnavailable):
            await service.check()
        assert folder.exists() == remade
        folder.mkdir(exist_ok=True)


async def test_files_expire_from_opening_to_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of one hour is no failure of the next."""
    monkeypatch.setattr(files_app, "_SWEEP_SECONDS", 0)
    caplog.set_level(logging.INFO, "files_api.app")
    service = FilesService(FilesSettings(data_dir=tmp_path))
    answers: list[int | Exception] = [2, 0, StorageUnavailable(), RuntimeError("a name.pdf")]
    emptied, ended = asyncio.Event(), False

    async def expire() -> int:
        nonlocal ended
        if not answers:
            emptied.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended = True
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(service.sweeps, "expired_files", expire)
    await service.open(upgrade)
    await asyncio.wait_for(emptied.wait(), 10)
    await service.close()
    assert ended
    assert [task.get_name() for task in asyncio.all_tasks()].count("sweep") == 0
    lines = [(record.message, record.facts) for record in caplog.records]  # type: ignore[attr-defined]
    assert lines == [
        ("swept", {"expired_files": 2}),
        ("sweep_failed", {"what": "expired_files", "error": "StorageUnavailable"}),
        ("sweep_failed", {"what": "expired_files", "error": "RuntimeError"}),
    ]


async def test_an_expired_file_is_deleted_when_the_service_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FilesSettings(data_dir=tmp_path)
    service = FilesService(settings)
    await service.open(upgrade)
    received = await service.files.receive(service.local, _chunks(PDF))
    await service.files.keep(service.local, received, "a.pdf", "ocr", expires_in=-1)
    assert len(left_over(service)) == 1
    await service.close()
    again = FilesService(settings)
    real, deleted = again.blobs.delete, asyncio.Event()

    async def delete(key: str) -> None:
        await real(key)
        deleted.set()

    monkeypatch.setattr(again.blobs, "delete", delete)
    await again.open(upgrade)
    await asyncio.wait_for(deleted.wait(), 10)
    await again.close()
    assert left_over(again) == []


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
