"""Limits end to end: requests, pages, bytes and uploads of an organisation, as clients see them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from pydantic import SecretStr

from ocr_api import app
from ocr_api.settings import MIB, Settings
from tests import helpers
from tests.conftest import running
from tests.keys_desk import SECRET, desk

PDF = helpers.pages_pdf(3)
INLINE = {"document_content": base64.b64encode(PDF).decode()}


@asynccontextmanager
async def limited(settings: Settings, **limits: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The whole service, with these settings, too."""
    service = app.create(settings.model_copy(update=limits))
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        yield client


async def read(client: httpx.AsyncClient, pages: str, **more: object) -> httpx.Response:
    body = {"model": "echo", "document": INLINE, "pages": pages, **more}
    return await client.post("/v1/ocr", json=body)


def check_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.json()["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 120


async def test_requests_in_a_minute(settings: Settings) -> None:
    async with limited(settings, requests_per_minute=3) as client:
        answers = [await client.get("/v1/files") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        names = [f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")]
        assert [answers[0].headers[name] for name in names] == ["3", "2", "20s"]
        assert answers[2].headers[names[1]] == "0"
        assert not [name for name in answers[0].headers if name.endswith(("-pages", "-bytes"))]
        for path in ("/v1/files", "/v1/models", "/v1/files/unknown/content"):
            answer = await client.get(path)
            check_refused(answer)
            assert answer.headers[names[1]] == "0"
        check_refused(await read(client, "0"))
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200


async def test_errors_carry_the_headers_too(settings: Settings) -> None:
    async with limited(settings, requests_per_minute=30) as client:
        for path, status in (("/v1/files/x", 400), ("/v1/files?limit=x", 422)):
            answer = await client.get(path)
            assert answer.status_code == status
            assert answer.headers["x-ratelimit-limit-requests"] == "30"


async def test_pages_in_a_minute(settings: Settings) -> None:
    """The document that passes the limit is read; the ones after it wait, but for kept pages."""
    async with limited(settings, pages_per_minute=2) as client:
        answer = await read(client, "0")
        assert answer.headers["x-ratelimit-remaining-pages"] == "1"
        answer = await read(client, "0-2")
        assert (answer.status_code, len(answer.json()["pages"])) == (200, 3)
        assert answer.headers["x-ratelimit-remaining-pages"] == "0"
        # The first page was read before: it is not counted, and may be asked for all the same.
        assert answer.headers["x-ratelimit-reset-pages"] in {"1m29s", "1m30s"}
        assert (await read(client, "0")).status_code == 200
        refused = await read(client, "0", skip_cache=True)
        check_refused(refused)
        assert int(refused.headers["retry-after"]) in range(50, 61)
        assert (await client.get("/v1/files")).status_code == 200


async def test_bytes_in_a_minute(settings: Settings) -> None:
    """Uploads and documents inside requests count alike."""
    async with limited(settings, bytes_per_minute=100_000) as client:
        for size in (50_000, 200_000):
            form = {"file": ("a.pdf", b"%PDF-1.7" + b"x" * size)}
            answer = await client.post("/v1/files", files=form)
            assert answer.status_code == 200
        assert answer.headers["x-ratelimit-remaining-bytes"] == "0"
        check_refused(await client.post("/v1/files", files={"file": ("a.pdf", b"%PDF-1.7")}))
        check_refused(await read(client, "0"))
        assert (await client.get("/v1/files")).status_code == 200
    async with limited(settings, bytes_per_minute=100) as client:
        assert (await read(client, "0")).status_code == 200
        check_refused(await client.post("/v1/files", files={"file": ("a.pdf", b"%PDF-1.7")}))


@pytest.mark.parametrize(("limit", "status"), [("max_org_uploads", 429), ("max_uploads", 503)])
async def test_uploads_at_once(settings: Settings, limit: str, status: int) -> None:
    async with limited(settings, **{limit: 2}) as client:
        more, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def slowly() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%PDF'
            begun.release()
            await more.wait()
            yield b"-1.7\r\n--b--\r\n"

        kind = {"content-type": "multipart/form-data; boundary=b"}
        running = [
            asyncio.create_task(client.post("/v1/files", content=slowly(), headers=kind))
            for _ in range(2)
        ]
        for _ in running:
            await begun.acquire()
        refused = await client.post("/v1/files", files={"file": ("a.pdf", b"%PDF-1.7")})
        assert refused.status_code == status
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert (await client.get("/v1/files")).status_code == 200
        more.set()
        assert [(await answer).status_code for answer in running] == [200, 200]
        kept = await client.post("/v1/files", files={"file": ("a.pdf", b"%PDF-1.7")})
        assert kept.status_code == 200


async def test_one_organisation_does_not_hold_all_room_for_bodies(settings: Settings) -> None:
    """R17: its key sends two large bodies slowly; the third is refused, others' are read."""
    url = f"sqlite:///{settings.data_dir}/recto.db"
    settings.data_dir.mkdir()
    limits = {"database_url": url, "secret_key": SecretStr(SECRET), "max_inline_bytes": 3 * MIB}
    async with desk(url) as opened, limited(settings, **limits) as client:
        slow, other = [
            {"authorization": f"Bearer {await opened.key(await opened.org(name))}"}
            for name in ("slow", "other")
        ]
        more, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"model": "' + b"x" * (4 * MIB)
            begun.release()
            await more.wait()
            yield b'"}'

        async def send(who: dict[str, str]) -> httpx.Response:
            content = b'{"model": "echo", "document": {"document_content": "%s"}}'
            sent = content % base64.b64encode(PDF + b"\n" * (2 * MIB))
            return await client.post("/v1/ocr", content=sent, headers=who)

        held = [
            asyncio.create_task(client.post("/v1/ocr", content=slowly(), headers=slow))
            for _ in range(2)
        ]
        for _ in held:
            await begun.acquire()
        refused = await send(slow)
        check_refused(refused)
        assert "too many large bodies at once" in refused.json()["message"]
        assert (await send(other)).status_code == 200
        more.set()
        assert [(await answer).status_code for answer in held] == [422, 422]
        assert (await send(slow)).status_code == 200


async def test_readiness_is_found_once_and_shows_no_address_where_there_are_keys(
    settings: Settings,
) -> None:
    url = f"sqlite:///{settings.data_dir}/recto.db"
    settings.data_dir.mkdir()
    model = "zai-org/GLM-OCR"
    servers = {model: ("http://127.0.0.1:9/v1", "http://localhost:9/v1")}
    more = {"database_url": url, "secret_key": SecretStr(SECRET), "engine_urls": servers}
    async with desk(url) as opened, limited(settings, **more) as client:
        await opened.key(await opened.org("some"))
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
    assert len({answer.text for answer in answers}) == 1
    assert (answers[0].status_code, ":9" in answers[0].text) == (200, False)
    assert {f"model {model} at server {number}" for number in (1, 2)} <= set(
        answers[0].json()["checks"]
    )


async def test_openais_client_knows_the_error(settings: Settings) -> None:
    async with limited(settings, requests_per_minute=1) as http:
        client = openai.AsyncOpenAI(
            api_key="x", base_url="http://127.0.0.1:8000/v1", http_client=http, max_retries=0
        )
        await client.files.list()
        with pytest.raises(openai.RateLimitError) as caught:
            await client.files.list()
        assert caught.value.code == "rate_limit_exceeded"


async def test_metrics_are_shown(settings: Settings) -> None:
    async with limited(settings) as client:
        await client.get("/v1/files/unknown")
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        route = 'route="/v1/files/{file_id}"'
        assert f'ocr_http_requests_total{{code="400",method="GET",{route}}}' in answer.text
        assert 'ocr_build_info{version="' in answer.text
        assert "ocr_upload_bytes_total" in answer.text
