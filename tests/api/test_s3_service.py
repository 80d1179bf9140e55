"""The whole service with its files in an S3 store: upload, download, OCR, delete."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ocr_api import app as ocr_app
from ocr_api.settings import Settings
from tests import helpers, s3server
from tests.conftest import running


def files_in(url: str) -> list[str]:
    """Return the keys of what was uploaded: all but the store's own markers."""
    return [key for key in s3server.objects(url) if "/recto/" not in key]


async def test_a_file_lives_and_dies_in_the_store(
    settings: Settings, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdf = helpers.pages_pdf(3) + b"% " + b"x" * 9_000_000  # two parts
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    service = ocr_app.create(settings.model_copy(update={"blob_url": s3_url}))
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        sent = await client.post(
            "/v1/files", files={"file": ("a.pdf", pdf)}, data={"purpose": "ocr"}
        )
        assert sent.status_code == 200, sent.text
        file_id = sent.json()["id"]
        (key,) = files_in(s3_url)
        assert key.startswith("some/prefix/")
        assert key.endswith(file_id)

        got = await client.get(f"/v1/files/{file_id}/content")
        assert (got.status_code, got.content) == (200, pdf)

        body = {"model": "echo", "document": {"type": "file", "file_id": file_id}, "pages": "0,2"}
        read = await client.post("/v1/ocr", json=body)
        assert read.status_code == 200, read.text
        assert [page["markdown"][:8] for page in read.json()["pages"]] == ["# Page 0", "# Page 2"]

        ready = await client.get("/readyz")
        assert ready.json()["checks"]["blob store"] == "ok"

        gone = await client.delete(f"/v1/files/{file_id}")
        assert gone.status_code == 200
        assert files_in(s3_url) == []
        assert (await client.get(f"/v1/files/{file_id}/content")).status_code == 404
        assert list(folder.glob("recto-blob-*")) == []
    assert not (settings.data_dir / "blobs").exists()


async def test_a_store_that_does_not_answer_is_503(
    settings: Settings, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7."""
    missing = s3_url.replace("recto-", "gone-")
    service = ocr_app.create(settings.model_copy(update={"blob_url": missing}))
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        sent = await client.post(
            "/v1/files", files={"file": ("a.pdf", b"%PDF-")}, data={"purpose": "ocr"}
        )
        assert (sent.status_code, sent.json()["code"]) == (503, "storage_unavailable")
        assert int(sent.headers["retry-after"]) > 0
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "does not answer" in ready.json()["checks"]["blob store"]
        assert (await client.get("/v1/files")).json()["data"] == []
