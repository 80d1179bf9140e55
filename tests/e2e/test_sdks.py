"""The unmodified Mistral and OpenAI clients against a live server; values are asserted.

The Mistral SDK silently drops malformed parts of an answer, so parsing proves nothing.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from io import BytesIO

import httpx
import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

from ocr_api import app
from ocr_api.settings import Settings
from tests import helpers
from tests.conftest import SCAN
from tests.e2e.conftest import Server

PDF = helpers.pages_pdf(3)
URI = "data:application/pdf;base64," + base64.b64encode(PDF).decode()


@pytest.fixture
def mistral(server: Server) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=server.base) as client:
        yield client


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=f"{server.base}/v1", max_retries=0) as client:
        yield client


def served() -> list[str]:
    """The names that the server answers to, which runs with the default cards and routes."""
    return app.load_registry(Settings(show_hidden_models=True)).names()


def words(text: str) -> set[str]:
    return {word.strip(".,:;()").lower() for word in text.split()} - {""}


def test_mistral_reads_a_scan_by_signed_url(mistral: Mistral) -> None:
    """The seed's flow: upload, signed URL, OCR of a scan with pages and images, delete."""
    truth = SCAN.with_suffix(".txt").read_text("utf-8").split("\f")
    file = mistral.files.upload(
        file={"file_name": "scan.pdf", "content": SCAN.read_bytes()}, purpose="ocr"
    )
    assert (file.size_bytes, file.filename, file.purpose) == (
        SCAN.stat().st_size,
        "scan.pdf",
        "ocr",
    )
    link = mistral.files.get_signed_url(file_id=file.id, expiry=1)
    answer = mistral.ocr.process(
        model="mistral-ocr-latest",
        document={"type": "document_url", "document_url": link.url},
        pages="0-1",
        include_image_base64=True,
        confidence_scores_granularity="page",
    )
    assert answer.model == "mistral-ocr-latest"
    assert [page.index for page in answer.pages] == [0, 1]
    for page, text in zip(answer.pages, truth, strict=False):
        found = words(page.markdown)
        assert len(words(text) & found) / len(words(text)) > 0.9
        assert page.dimensions
        assert page.dimensions.width > 1000
        assert page.blocks
        assert page.blocks[0].type in {"title", "text"}
        assert page.confidence_scores
        assert 0.8 < page.confidence_scores.average_page_confidence_score <= 1
        (image,) = page.images
        assert str(image.image_base64).startswith("data:image/jpeg;base64,/9j/")
        assert (image.bottom_right_x, image.bottom_right_y) == (
            page.dimensions.width,
            page.dimensions.height,
        )
    assert answer.usage_info.pages_processed == 2
    assert answer.usage_info.doc_size_bytes == SCAN.stat().st_size
    deleted = mistral.files.delete(file_id=file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)


def test_mistral_files(mistral: Mistral) -> None:
    file = mistral.files.upload(file={"file_name": "blåbär.pdf", "content": PDF})
    assert file.purpose == "ocr"
    assert mistral.files.retrieve(file_id=file.id).filename == "blåbär.pdf"
    assert mistral.files.download(file_id=file.id).read() == PDF
    listed = mistral.files.list(page=0, page_size=1)
    assert (listed.data[0].id, listed.data[0].size_bytes) == (file.id, len(PDF))
    assert listed.total
    mistral.files.delete(file_id=file.id)
    with pytest.raises(SDKError) as caught:
        mistral.files.retrieve(file_id=file.id)
    assert caught.value.status_code == 404


@pytest.mark.parametrize(
    "document",
    [
        {"type": "document_url", "document_url": URI},
        {"type": "image_url", "image_url": URI},
        {"type": "image_url", "image_url": {"url": URI, "detail": "low"}},
    ],
)
def test_mistral_inline_documents(mistral: Mistral, document: dict[str, object]) -> None:
    answer = mistral.ocr.process(model="echo", document=document, pages=[2])  # type: ignore[arg-type]
    assert [page.index for page in answer.pages] == [2]
    assert answer.pages[0].markdown.startswith("# Page 2")
    assert answer.usage_info.doc_size_bytes == len(PDF)


def test_mistral_model_may_be_null(mistral: Mistral) -> None:
    blank = "data:application/pdf;base64," + base64.b64encode(helpers.blank_pdf()).decode()
    answer = mistral.ocr.process(
        model=None, document={"type": "document_url", "document_url": blank}
    )
    assert (answer.model, answer.pages[0].markdown) == ("rapidocr", "")


def test_mistral_errors(mistral: Mistral) -> None:
    document = {"type": "document_url", "document_url": URI}
    with pytest.raises(HTTPValidationError) as wrong:
        mistral.ocr.process(model="echo", document=document, pages="abc")  # type: ignore[arg-type]
    assert wrong.value.data.detail
    assert wrong.value.data.detail[0].loc == ["body", "pages"]
    with pytest.raises(SDKError) as unknown:
        mistral.ocr.process(model="nothing", document=document)  # type: ignore[arg-type]
    assert unknown.value.status_code == 400
    assert "model_not_found" in unknown.value.body


def test_mistral_async_and_models(server: Server) -> None:
    async def both() -> tuple[str, list[str]]:
        async with Mistral(api_key="any", server_url=f"{server.base}/v1") as client:
            answer = await client.ocr.process_async(
                model="echo", document={"type": "document_url", "document_url": URI}
            )
            models = await client.models.list_async()
            return answer.pages[2].markdown, [model.id for model in models.data or []]

    markdown, models = asyncio.run(both())
    assert markdown.startswith("# Page 2")
    assert models == served()


def test_openai_files(client: openai.OpenAI) -> None:
    first = client.files.create(file=("one.pdf", PDF), purpose="user_data")
    second = client.files.create(file=BytesIO(PDF), purpose="ocr")  # type: ignore[arg-type]
    assert (first.filename, first.bytes, first.status) == ("one.pdf", len(PDF), "processed")
    assert second.filename == "upload"
    assert client.files.wait_for_processing(second.id).status == "processed"
    ids = [file.id for file in client.files.list(limit=1)]
    assert ids[:2] == [second.id, first.id]
    assert [file.id for file in client.files.list(purpose="user_data", order="asc")] == [first.id]
    assert client.files.content(first.id).read() == PDF
    # Other tests read the same pages.
    body = {"model": "echo", "skip_cache": True}
    answer = client.post(f"/files/{first.id}/ocr", body=body, cast_to=object)
    assert answer["usage"]["total_tokens"] > 0  # type: ignore[index]
    assert answer["usage_info"]["pages_reused"] == 0  # type: ignore[index]
    for file in (first, second):
        assert client.files.delete(file.id).deleted is True
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(first.id)
    assert gone.value.code == "file_not_found"
    assert gone.value.request_id


def test_openai_expires_after(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("one.pdf", PDF),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    client.files.delete(file.id)


def test_openai_models_and_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == served()
    assert client.models.retrieve("mistral-ocr-latest").object == "model"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("some-org/OCR")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.post("/ocr", body={"model": "echo"}, cast_to=object)
    assert (wrong.value.code, wrong.value.param) == ("missing_document", "document")


def test_client_that_leaves_stops_its_work(server: Server) -> None:
    """After a hang-up the server stops at the next page and stays healthy."""
    many = base64.b64encode(helpers.pages_pdf(900)).decode()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.base}/v1/ocr",
            json={"document": {"document_content": many}},
            timeout=httpx.Timeout(10, read=0.7),
        )
    size = len(base64.b64decode(many))
    rows = helpers.wait_for_usage(
        server.data / "recto.db", lambda row: row["document_bytes"] == size
    )
    assert rows[0]["outcome"] == "cancelled"
    assert rows[0]["pages"] < 100
    assert httpx.get(f"{server.base}/livez").json() == {"status": "ok"}
