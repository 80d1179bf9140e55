"""The unmodified Python clients do all file work with keys: SQLite and disk, PostgreSQL and S3."""

from __future__ import annotations

import hashlib
from io import BytesIO

import httpx
import openai
import pytest
from mistralai.client.errors import SDKError

from tests import helpers
from tests.e2e.conftest import Stack

PDF = helpers.pages_pdf(3)


def test_mistral_does_all_file_work(stack: Stack) -> None:
    with stack.mistral() as client:
        file = client.files.upload(
            file={"file_name": "blåbär.pdf", "content": PDF}, purpose="ocr", expiry=2
        )
        assert (file.filename, file.size_bytes, file.purpose) == ("blåbär.pdf", len(PDF), "ocr")
        assert file.expires_at == file.created_at + 7200
        found = client.files.retrieve(file_id=file.id)
        assert (found.id, found.signature) == (file.id, hashlib.sha256(PDF).hexdigest())
        assert client.files.download(file_id=file.id).read() == PDF
        listed = client.files.list(page_size=10, search="blåb")
        assert ([each.id for each in listed.data], listed.total) == ([file.id], 1)
        link = client.files.get_signed_url(file_id=file.id, expiry=1).url
        by_link, by_id = (
            client.ocr.process(model="echo", document=document, pages="1-2")
            for document in (
                {"type": "document_url", "document_url": link},
                {"type": "file", "file_id": file.id},
            )
        )
        assert [page.markdown for page in by_link.pages] == [page.markdown for page in by_id.pages]
        assert [page.index for page in by_id.pages] == [1, 2]
        answer = httpx.get(link)  # without a key
        assert (answer.content, answer.headers["content-type"]) == (PDF, "application/pdf")
        assert client.files.delete(file_id=file.id).deleted is True
        assert httpx.get(link).status_code == 404


def test_openai_does_all_file_work(stack: Stack) -> None:
    with stack.openai() as client:
        file = client.files.create(
            file=("one.pdf", PDF),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert client.files.wait_for_processing(file.id).status == "processed"
        assert [each.id for each in client.files.list(limit=1)][:1] == [file.id]
        assert client.files.content(file.id).read() == PDF
        answer = client.post(f"/files/{file.id}/ocr", body={"model": "echo"}, cast_to=object)
        assert len(answer["pages"]) == 3  # type: ignore[index]
        assert client.files.delete(file.id).deleted is True


def test_openai_uploads_in_chunks(stack: Stack) -> None:
    """R1's way in for large files, by the SDK's own helper."""
    content = PDF + bytes(range(256)) * 20_000
    with stack.openai() as client:
        upload = client.uploads.upload_file_chunked(
            file=content,
            filename="long.pdf",
            bytes=len(content),
            mime_type="application/pdf",
            purpose="user_data",
            part_size=1024 * 1024,
            md5=hashlib.md5(content).hexdigest(),
        )
        assert (upload.status, upload.bytes) == ("completed", len(content))
        assert upload.file
        assert (upload.file.filename, upload.file.status) == ("long.pdf", "processed")
        assert client.files.content(upload.file.id).read() == content
        client.files.delete(upload.file.id)


def test_each_organisation_sees_its_own(stack: Stack) -> None:
    """R12, as the clients see it."""
    with stack.openai() as one, stack.mistral(stack.other) as two:
        file = one.files.create(file=BytesIO(PDF), purpose="user_data")
        assert file.id not in {each.id for each in two.files.list().data}
        for call in (two.files.retrieve, two.files.delete, two.files.get_signed_url):
            with pytest.raises(SDKError) as refused:
                call(file_id=file.id)
            assert refused.value.status_code == 404
        one.files.delete(file.id)


def test_a_wrong_key_is_an_authentication_error(stack: Stack) -> None:
    with (
        stack.openai(stack.key[:-1] + "?") as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.files.list()
    assert refused.value.code == "invalid_api_key"
