"""The OCR routes end to end over ASGI, on the fake engine: shapes, errors, usage."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from ocr_api import app
from ocr_api.settings import Settings
from tests import helpers, samples
from tests.conftest import running

TEXT_PDF = helpers.pages_pdf(5)


def data_uri(data: bytes, media_type: str = "application/pdf") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


async def upload(client: httpx.AsyncClient, data: bytes, name: str = "a.pdf") -> str:
    answer = await client.post("/v1/files", files={"file": (name, data)}, data={"purpose": "ocr"})
    assert answer.status_code == 200, answer.text[:500]
    return str(answer.json()["id"])


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    body.setdefault("document", {"type": "document_url", "document_url": data_uri(TEXT_PDF)})
    answer = await client.post("/v1/ocr", json={"model": "echo", **body})
    assert answer.status_code == 200, answer.text[:500]
    found: dict[str, Any] = answer.json()
    return found


async def refused(client: httpx.AsyncClient, status: int, code: str, **body: Any) -> dict[str, Any]:
    body.setdefault("document", {"type": "document_url", "document_url": data_uri(TEXT_PDF)})
    answer = await client.post("/v1/ocr", json={"model": "echo", **body})
    return check_error(answer, status, code)


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the error superset, key by key."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert body["object"] == "error"
    assert body["error"] == {key: body[key] for key in ("message", "type", "param", "code")}
    assert body["message"]
    assert answer.headers["x-request-id"] == body["request_id"] != ""
    if status == 422:
        assert all({"loc", "msg", "type"} <= item.keys() for item in body["detail"])
        assert all("input" not in item for item in body["detail"])
    else:
        assert body["detail"] == body["message"]
    return body


async def test_answer_has_every_key(client: httpx.AsyncClient) -> None:
    answer = await ask(client, pages=[1, 3, 99])
    assert answer["id"].startswith("ocr-")
    assert (answer["object"], answer["model"]) == ("ocr", "echo")
    assert answer["document_annotation"] is None
    assert answer["warnings"] == []
    assert [page["index"] for page in answer["pages"]] == [1, 3]
    page = answer["pages"][0]
    assert page["markdown"].startswith("# Page 1\n\n")
    assert page["images"] == page["tables"] == page["hyperlinks"] == page["blocks"] == []
    assert page["header"] is page["footer"] is page["confidence_scores"] is page["error"] is None
    assert page["reused"] is False
    size = page["dimensions"]
    assert f"{size['width']} x {size['height']} px" in page["markdown"]
    assert max(size["width"], size["height"]) == 1540
    assert all(isinstance(value, int) for value in size.values())
    usages = [one["usage"] for one in answer["pages"]]
    total = sum(one["completion_tokens"] for one in usages)
    assert answer["usage"]["completion_tokens"] == total > 0
    assert answer["usage_info"] == {
        "pages_processed": 2,
        "pages_reused": 0,
        "doc_size_bytes": len(TEXT_PDF),
        "reused_tokens": 0,
        "wasted_tokens": 0,
        **answer["usage"],
    }


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        (0, [0]),
        ("0", [0]),
        ("0-2", [0, 1, 2]),
        ("0,2-4", [0, 2, 3, 4]),
        ([4, 0, 0], [0, 4]),
        (["0", "1"], [0, 1]),
        ([1.0], [1]),
        ("3-900", [3, 4]),
        (None, [0, 1, 2, 3, 4]),
    ],
)
async def test_pages(client: httpx.AsyncClient, pages: object, expected: list[int]) -> None:
    answer = await ask(client, pages=pages)
    assert [page["index"] for page in answer["pages"]] == expected


@pytest.mark.parametrize(
    "pages",
    [-1, "", "abc", "1-", "2-1", [], [-1], True, {}, 1.5, "0-999999999", list(range(1001)), "-1"],
)
async def test_pages_with_bad_grammar(client: httpx.AsyncClient, pages: object) -> None:
    body = await refused(client, 422, "validation_error", pages=pages)
    assert body["param"] == "pages"


async def test_pages_that_do_not_exist(client: httpx.AsyncClient) -> None:
    body = await refused(client, 400, "pages_out_of_range", pages="7-9")
    assert body["param"] == "pages"
    assert "has 5" in body["message"]


@pytest.mark.parametrize(
    "document",
    [
        {"type": "document_url", "document_url": data_uri(TEXT_PDF)},
        {"document_url": data_uri(TEXT_PDF), "document_name": None},
        {"type": "image_url", "image_url": data_uri(TEXT_PDF, "image/jpeg")},
        {"type": "image_url", "image_url": {"url": data_uri(TEXT_PDF), "detail": "high"}},
        {"type": "content", "document_content": data_uri(TEXT_PDF)},
        {"type": "content", "document_content": base64.b64encode(TEXT_PDF).decode()},
        {"base64_document": base64.b64encode(TEXT_PDF).decode()},
        {"document_url": data_uri(TEXT_PDF, "application/octet-stream")},
    ],
)
async def test_document_variants(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    answer = await ask(client, document=document, pages=0)
    assert answer["usage_info"]["doc_size_bytes"] == len(TEXT_PDF)


async def test_uploaded_file_by_every_way(client: httpx.AsyncClient) -> None:
    file_id = await upload(client, TEXT_PDF)
    link = (await client.get(f"/v1/files/{file_id}/url")).json()["url"]
    documents = (
        {"type": "file", "file_id": file_id},
        {"type": "file_id", "file_id": file_id, "org_id": "anything"},
        {"type": "document_url", "document_url": link},
    )
    texts = [_texts(await ask(client, document=document)) for document in documents]
    direct = await client.post(f"/v1/files/{file_id}/ocr", json={"model": "echo"})
    assert direct.headers["x-recto-card"] == "echo"
    assert texts == [_texts(direct.json())] * 3
    assert (await client.delete(f"/v1/files/{file_id}")).json()["deleted"] is True
    gone = await client.post(f"/v1/files/{file_id}/ocr", json={"model": "echo"})
    check_error(gone, 404, "file_not_found")
    await refused(
        client, 400, "invalid_signed_url", document={"type": "document_url", "document_url": link}
    )


def _texts(answer: dict[str, Any]) -> list[tuple[int, str]]:
    return [(page["index"], page["markdown"]) for page in answer["pages"]]


async def test_remote_document_is_fetched(client: httpx.AsyncClient) -> None:
    async with helpers.serving({"/a.pdf": TEXT_PDF, "/page.html": b"<!doctype html><p>"}) as base:
        answer = await ask(client, document={"document_url": f"{base}/a.pdf"}, pages=0)
        assert answer["usage_info"]["doc_size_bytes"] == len(TEXT_PDF)
        body = await refused(
            client, 400, "unsupported_format", document={"document_url": f"{base}/page.html"}
        )
        assert "HTML" in body["message"]
        await refused(client, 400, "fetch_failed", document={"document_url": f"{base}/no"})
    for url in ("http://10.0.0.1/a.pdf", "file:///etc/passwd", "http://localhost/a.pdf", "x"):
        body = await refused(client, 400, "fetch_refused", document={"image_url": url})
        assert body["param"] == "document.image_url"


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("empty", 400, "document_empty"),
        ("truncated", 400, "document_damaged"),
        ("encrypted", 400, "document_encrypted"),
        ("no_pages", 400, "document_empty"),
        ("html", 400, "unsupported_format"),
        ("zip", 400, "unsupported_format"),
        ("text", 400, "unsupported_format"),
        ("bomb", 400, "document_too_complex"),
    ],
)
async def test_bad_documents(client: httpx.AsyncClient, name: str, status: int, code: str) -> None:
    bad = {
        "empty": b"",
        "truncated": b"%PDF-1.7\n%%EOF\n",
        "encrypted": samples.encrypted_pdf(),
        "no_pages": samples.empty_pdf(),
        "html": b"<!DOCTYPE html><html><body>named .pdf</body></html>",
        "zip": b"PK\x03\x04" + bytes(60),
        "text": b"just words, in a file named .pdf",
        "bomb": samples.forms_bomb_pdf(),
    }[name]
    file_id = await upload(client, bad)
    answer = await client.post(f"/v1/files/{file_id}/ocr", json={"model": "echo"})
    body = check_error(answer, status, code)
    assert body["param"] == "file_id"
    if code == "unsupported_format":
        assert "PDF, PNG, JPEG" in body["message"]
    assert (await ask(client, pages=0))["pages"], "the server is healthy afterwards"


async def test_too_many_pages(client: httpx.AsyncClient, settings: Settings) -> None:
    body = await refused(
        client, 400, "too_many_pages", document={"document_url": data_uri(helpers.pages_pdf(1001))}
    )
    assert "1001 pages" in body["message"]


async def test_bad_requests(client: httpx.AsyncClient) -> None:
    assert (await refused(client, 400, "missing_document", document=None))["param"] == "document"
    await refused(client, 400, "missing_document", document={"type": "document_url"})
    await refused(client, 422, "validation_error", document="text")
    body = await refused(client, 400, "invalid_base64", document={"document_content": "@@@@"})
    assert body["param"] == "document.document_content"
    body = await refused(client, 400, "invalid_file_id", document={"file_id": "no-uuid"})
    unknown = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
    await refused(client, 404, "file_not_found", document={"file_id": unknown})
    body = await refused(client, 400, "model_not_found", model="gpt-4")
    assert (body["param"], "echo, rapidocr" in body["message"]) == ("model", True)
    body = await refused(client, 422, "validation_error", image_limit=-1)
    assert body["param"] == "image_limit"
    body = await refused(client, 400, "annotation_not_supported", document_annotation_prompt="x")
    assert body["param"] == "document_annotation_prompt"
    broken = await client.post("/v1/ocr", content=b'{"model": ')
    check_error(broken, 400, "invalid_json")
    check_error(await client.post("/v1/ocr", content=b"[]"), 422, "validation_error")
    check_error(await client.get("/v1/ocr/process"), 404, "not_found")
    wrong = await client.get("/v1/ocr")
    check_error(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    check_error(await client.post("/v1/ocr/", json={}), 404, "not_found")


async def test_prompts_reach_the_model_and_the_rest_is_warned_about(
    client: httpx.AsyncClient,
) -> None:
    answer = await ask(client, pages=0, prompt="Only the dates")
    assert "Prompt: Only the dates" in answer["pages"][0]["markdown"]
    assert answer["usage"]["prompt_tokens"] == 3
    answer = await ask(client, pages=0, table_format="html", include_blocks=True, extra="ignored")
    assert [warning["param"] for warning in answer["warnings"]] == [
        "include_blocks",
        "table_format",
    ]
    assert answer["pages"][0]["tables"] == []


async def test_warnings_are_in_a_header_too(client: httpx.AsyncClient) -> None:
    """The Mistral SDK drops keys that it does not know."""
    document = {"document_url": data_uri(TEXT_PDF)}
    body = {"model": "echo", "pages": 0, "document": document}
    answer = await client.post("/v1/ocr", json={**body, "table_format": "html"})
    assert answer.headers["x-recto-warnings"] == "not_supported=table_format"
    assert "x-recto-warnings" not in (await client.post("/v1/ocr", json=body)).headers


async def test_pictures(client: httpx.AsyncClient) -> None:
    document = {"document_url": data_uri(helpers.two_pictures_pdf())}
    plain = await ask(client, document=document)
    assert plain["pages"][0]["images"] == []
    assert "img-0" not in plain["pages"][0]["markdown"]
    listed = await ask(client, document=document, include_blocks=True)
    image = listed["pages"][0]["images"][0]
    assert image["image_base64"] is None
    full = await ask(client, document=document, include_image_base64="true")
    images = [one for page in full["pages"] for one in page["images"]]
    assert [one["id"] for one in images] == [f"img-{n}.jpeg" for n in range(len(images))]
    assert len(images) > 1
    for one in images:
        assert one["image_base64"].startswith("data:image/jpeg;base64,/9j/")
        assert one["dimensions"]["width"] == one["bottom_right_x"] - one["top_left_x"] > 0
    assert "![img-0.jpeg](img-0.jpeg)" in full["pages"][0]["markdown"]
    limited = await ask(client, document=document, include_image_base64=True, image_limit=1)
    assert sum(len(page["images"]) for page in limited["pages"]) == 1
    assert "img-1" not in json.dumps(limited)
    none = await ask(client, document=document, include_image_base64=True, image_limit=0)
    assert sum(len(page["images"]) for page in none["pages"]) == 0


async def test_a_page_without_pictures_is_carried_whole(client: httpx.AsyncClient) -> None:
    answer = await ask(client, pages="0-1", include_image_base64=True)
    small = await ask(client, pages=0, include_image_base64=True, image_min_size=5000)
    assert small["pages"][0]["images"] == []
    for number, page in enumerate(answer["pages"]):
        (image,) = page["images"]
        assert image["id"] == f"img-{number}.jpeg"
        size = {key: page["dimensions"][key] for key in ("width", "height")}
        assert image["dimensions"] == size
        assert "img-" not in page["markdown"]


async def test_blank_page_is_empty_and_costs_nothing(client: httpx.AsyncClient) -> None:
    answer = await ask(client, document={"document_url": data_uri(helpers.blank_pdf())})
    assert answer["pages"][0]["markdown"] == ""
    assert answer["usage"]["total_tokens"] == 0
    assert answer["usage_info"]["pages_processed"] == 1


async def test_allow_partial(client: httpx.AsyncClient) -> None:
    document = {"document_url": data_uri(helpers.bad_middle_pdf())}
    await refused(client, 400, "document_too_complex", document=document)
    answer = await ask(client, document=document, allow_partial=True)
    errors = [page["error"] for page in answer["pages"]]
    assert [bool(error) for error in errors] == [False, True, False]
    assert answer["pages"][1]["dimensions"] is None
    assert answer["usage_info"]["pages_processed"] == 2


async def test_default_model_names(client: httpx.AsyncClient) -> None:
    document = {"document_url": data_uri(helpers.blank_pdf())}
    for model in (None, "mistral-ocr-latest", "rapidocr"):
        answer = await ask(client, document=document, model=model)
        assert answer["model"] == (model or "rapidocr")
    missing = await client.post("/v1/ocr", json={"document": document})
    assert missing.json()["model"] == "rapidocr"


async def test_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["echo", "rapidocr"]
    for model in listed["data"]:
        assert (model["object"], model["type"]) == ("model", "base")
        assert model["capabilities"]["ocr"] is True
    one = (await client.get("/v1/models/mistral-ocr-latest")).json()
    assert one["id"] == "mistral-ocr-latest"
    for path in ("/v1/models/some-org/OCR", "/v1/models/some-org%2FOCR"):
        body = check_error(await client.get(path), 404, "model_not_found")
        assert "some-org/OCR" in body["message"]


async def test_health_and_twice_v1(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/healthz", "/health"):
        assert (await client.get(path)).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert ready.json()["checks"] == {
        "database": "ok",
        "blob store": "ok",
        "drawing": "ok",
        "model echo": "ok",
        "model rapidocr": "ok",
    }
    twice = await client.get("/v1/v1/models")
    assert twice.json() == (await client.get("/v1/models")).json()
    docs = await client.get("/docs")
    assert "cdn" not in docs.text
    assert "swagger-ui" in docs.text


async def test_request_id(client: httpx.AsyncClient) -> None:
    given = await client.get("/v1/models", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    forged = await client.get("/v1/models", headers={"x-request-id": "a b\tc"})
    assert len(forged.headers["x-request-id"]) == 36
    answer = await ask(client, pages=0)
    assert len(answer["id"]) == len("ocr-") + 36


async def test_body_with_too_many_values(client: httpx.AsyncClient) -> None:
    """Fifteen megabytes of brackets would become two gigabytes of Python lists."""
    body = b'{"document": [' + b"[]," * 200_000 + b"[]]}"
    check_error(await client.post("/v1/ocr", content=body), 400, "invalid_request")


async def test_long_values_are_not_echoed(client: httpx.AsyncClient) -> None:
    body = await refused(client, 422, "validation_error", model="x" * 300)
    assert (body["param"], "xxx" in body["message"]) == ("model", False)
    body = await refused(client, 422, "validation_error", prompt="x" * 40_000)
    assert body["param"] == "prompt"


async def test_answer_limit(client: httpx.AsyncClient) -> None:
    body = await refused(client, 400, "answer_too_large", include_image_base64=True)
    assert body["param"] == "pages"
    assert await ask(client, pages=0, include_image_base64=True)


@pytest.mark.parametrize("field", ["document_annotation_format", "bbox_annotation_format"])
async def test_only_schemas_are_annotation_formats(client: httpx.AsyncClient, field: str) -> None:
    for value in ({"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}):
        assert (await refused(client, 422, "validation_error", **{field: value}))["param"] == field
    schema = {"json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert (await refused(client, 400, "annotation_not_supported", **{field: schema}))[
        "param"
    ] == field


async def test_body_limit_counts_bytes(settings: Settings, client: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(settings.max_json_bytes // 2**20 + 2):
            yield b" " * 2**20

    answer = await client.post("/v1/ocr", content=endless())
    check_error(answer, 413, "too_large")


async def test_usage_is_recorded(settings: Settings) -> None:
    service = app.create(settings)
    transport = httpx.ASGITransport(service)
    client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
    async with running(service), client:
        await ask(client, pages="0-2")
        await refused(client, 400, "document_too_complex", document={
            "document_url": data_uri(helpers.bad_middle_pdf())
        })  # fmt: skip
    # Rows are written in groups, the last of them when the service ends.
    rows = helpers.usage_rows(Path(settings.data_dir) / "recto.db")
    facts = [(row["card"], row["outcome"], row["pages"], row["document_bytes"]) for row in rows]
    assert facts[0] == ("echo", "ok", 3, len(TEXT_PDF))
    assert facts[1][:2] == ("echo", "failed")
    assert rows[0]["completion_tokens"] > 0
    assert {row["org_id"] for row in rows} == {"00000000-0000-7000-8000-000000000001"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"host": "recto.localhost"}, 200),
        ({"host": "rebound.example"}, 403),
        ({"host": "10.0.0.7:8000"}, 403),
        ({"host": "127.0.0.1.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        # Browsers that send no Sec-Fetch-Site: old ones, and all over plain HTTP elsewhere.
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "http://[::1]"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1.example"}, 403),
        ({"origin": "http://localhost@evil.example"}, 403),
        ({"origin": "http://127.0.0.1 http://evil.example"}, 403),
        ({"origin": "http://10.0.0.7:8000"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "chrome-extension://abcdef"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://rebound.example", "host": "rebound.example"}, 403),
    ],
)
async def test_without_keys_only_this_machine_is_served(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    """A page that a browser shows, and a name rebound to 127.0.0.1, reach nobody's files."""
    answer = await client.get("/v1/files", headers=headers)
    assert answer.status_code == status
    if status == 403:
        check_error(answer, 403, "caller_refused")
