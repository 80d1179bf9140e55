"""Large uploads with the unmodified OpenAI client against a live server, and their memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests import samples
from tests.bench import server as bench
from tests.bench.processes import cpu_seconds, peak_mib, resident_mib
from tests.e2e.conftest import Server

MIB = 2**20
SOAK = bool(os.environ.get("RECTO_SOAK"))
SIZE, PART = (2048 * MIB, 64 * MIB) if SOAK else (256 * MIB, 16 * MIB)
AT_ONCE = 4
MOST_GROWTH = 64.0
"""MiB that an upload may add to the process."""


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=f"{server.base}/v1", max_retries=0) as client:
        yield client


def large_pdf(size: int) -> bytes:
    """Return a PDF of one page, of so many bytes at least: most of it is a comment."""
    pdf = samples.text_pdf(["A large document."])
    filling = random.Random(4).randbytes(size // 2).hex().encode()
    return pdf + b"\n%" + filling + b"\n%%EOF\n"


def test_upload_file_chunked(client: openai.OpenAI, tmp_path: Path) -> None:
    """The client's own way, from a file on disk and from memory."""
    content = large_pdf(5 * MIB)
    path = tmp_path / "large.pdf"
    path.write_bytes(content)
    from_disk = client.uploads.upload_file_chunked(
        file=path,
        mime_type="application/pdf",
        purpose="user_data",
        part_size=MIB,
        md5=hashlib.md5(content).hexdigest(),
    )
    from_memory = client.uploads.upload_file_chunked(
        file=content,
        filename="large.pdf",
        bytes=len(content),
        mime_type="application/pdf",
        purpose="user_data",
    )
    for done in (from_disk, from_memory):
        assert (done.object, done.status, done.bytes) == ("upload", "completed", len(content))
        assert (done.filename, done.purpose) == ("large.pdf", "user_data")
        assert 3590 <= done.expires_at - done.created_at <= 3600
        assert done.file
        assert (done.file.object, done.file.status) == ("file", "processed")
        assert (done.file.filename, done.file.bytes) == ("large.pdf", len(content))
        assert client.files.retrieve(done.file.id) == done.file
        assert client.files.wait_for_processing(done.file.id).id == done.file.id
        assert client.files.content(done.file.id).read() == content
        client.files.delete(done.file.id)


def test_an_uploaded_document_is_read(client: openai.OpenAI, server: Server) -> None:
    done = client.uploads.upload_file_chunked(
        file=large_pdf(MIB),
        filename="large.pdf",
        bytes=len(large_pdf(MIB)),
        mime_type="application/pdf",
        purpose="user_data",
        part_size=300_000,
    )
    assert done.file
    answer = httpx.post(
        f"{server.base}/v1/ocr",
        json={"model": "echo", "document": {"type": "file", "file_id": done.file.id}},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage_info"]["pages_processed"] == 1


def test_refusals_are_the_clients_errors(client: openai.OpenAI) -> None:
    upload = client.uploads.create(
        bytes=10, filename="a.txt", mime_type="text/plain", purpose="user_data"
    )
    assert (upload.status, upload.file) == ("pending", None)
    part = client.uploads.parts.create(upload.id, data=b"x" * 10)
    assert (part.object, part.upload_id) == ("upload.part", upload.id)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.uploads.complete(upload.id, part_ids=[part.id], md5="0" * 32)
    assert (wrong.value.code, wrong.value.param) == ("upload_incomplete", "md5")
    assert upload.filename not in {file.filename for file in client.files.list()}
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as closed:
        client.uploads.parts.create(upload.id, data=b"x")
    assert closed.value.code == "upload_closed"
    with pytest.raises(openai.NotFoundError) as missing:
        client.uploads.cancel(part.id)
    assert missing.value.code == "upload_not_found"


async def test_parts_at_once_in_any_order(server: Server) -> None:
    """The order of the ids is the order of the content, whatever came first."""
    pieces = [bytes([number]) * (MIB + number) for number in range(8)]
    names = list(range(8))
    random.Random(7).shuffle(names)
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.base}/v1") as client:

        async def upload(order: list[int]) -> str:
            upload = await client.uploads.create(
                bytes=sum(map(len, pieces)),
                filename="pieces.bin",
                mime_type="application/octet-stream",
                purpose="user_data",
            )
            parts = await asyncio.gather(
                *(client.uploads.parts.create(upload.id, data=pieces[name]) for name in names)
            )
            ids = {name: part.id for name, part in zip(names, parts, strict=True)}
            done = await client.uploads.complete(upload.id, part_ids=[ids[one] for one in order])
            assert done.file
            return done.file.id

        for order in (list(range(8)), names):
            file = await upload(order)
            content = await client.files.content(file)
            assert content.read() == b"".join(pieces[name] for name in order)
            await client.files.delete(file)


# --- memory ---------------------------------------------------------------------------------------


def block(number: int) -> bytes:
    """Return the bytes of a part; each is another one."""
    return number.to_bytes(8, "big") * (PART // 8)


async def put(base: str, size: int) -> tuple[str, float]:
    """Upload so many bytes in parts, some at once; return the file's id, and how long it took."""
    count = size // PART
    places = asyncio.Semaphore(AT_ONCE)
    digest = hashlib.sha256()
    for number in range(count):
        digest.update(block(number))
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{base}/v1") as client:
        begun = time.monotonic()
        upload = await client.uploads.create(
            bytes=size, filename="x.bin", mime_type="application/octet-stream", purpose="user_data"
        )

        async def send(number: int) -> str:
            async with places:
                return (await client.uploads.parts.create(upload.id, data=block(number))).id

        part_ids = await asyncio.gather(*map(send, range(count)))
        done = await client.uploads.complete(upload.id, part_ids=part_ids)
        took = time.monotonic() - begun
    assert done.file
    assert getattr(done.file, "signature", "") == digest.hexdigest()
    return done.file.id, took


def hash_of(base: str, file_id: str) -> str:
    """Return the hash of a file as it is downloaded."""
    digest = hashlib.sha256()
    with httpx.stream("GET", f"{base}/v1/files/{file_id}/content", timeout=60) as answer:
        for chunk in answer.iter_bytes():
            digest.update(chunk)
    return digest.hexdigest()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_a_large_upload_holds_little_memory(tmp_path: Path) -> None:
    """2 GB under `make soak`; 64 MiB are the parts that the client has under way."""
    with bench.running(tmp_path) as (base, pid):
        warm, _ = asyncio.run(put(base, PART))
        httpx.delete(f"{base}/v1/files/{warm}").raise_for_status()
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        before, cpu = resident_mib(pid), cpu_seconds(pid)
        file_id, took = asyncio.run(put(base, SIZE))
        cpu = cpu_seconds(pid) - cpu
        growth = peak_mib(pid) - before
        mib = SIZE / MIB
        print(f"\n{mib:.0f} MiB in parts: +{growth:.1f} MiB at the peak over {before:.0f} MiB,")
        print(f"{mib / took:.0f} MiB/s, {cpu / SIZE * 100e6:.2f} CPU seconds for 100 MB")
        assert growth < MOST_GROWTH
        stored = httpx.get(f"{base}/v1/files/{file_id}").json()
        assert (stored["bytes"], hash_of(base, file_id)) == (SIZE, stored["signature"])
    left = [path for path in (tmp_path / "server" / "blobs").rglob("*") if path.is_file()]
    assert {path.name for path in left} - {"installation"} == {file_id}
