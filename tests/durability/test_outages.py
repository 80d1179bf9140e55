"""R7: the blob store goes away and comes back, under a server that keeps running."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests import s3server
from tests.durability.checker import Stores, left_over, problems
from tests.durability.conftest import Sweep
from tests.durability.process import Recto

KEPT = b"kept through the outage"
SOON = 10.0


def upload(http: httpx.Client, content: bytes) -> httpx.Response:
    return http.post("/v1/files", files={"file": ("a.bin", content)})


def refused(answer: httpx.Response) -> None:
    """The documented answer to what cannot be done now: come back soon."""
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "storage_unavailable"
    assert 1 <= int(answer.headers["Retry-After"]) <= 120
    assert answer.headers["x-request-id"]


def without_the_store(http: httpx.Client, file_id: str) -> None:
    """What needs bytes is refused, what needs only rows works, and nothing is believed lost."""
    refused(upload(http, b"lost"))
    refused(http.get(f"/v1/files/{file_id}/content"))
    refused(http.post(f"/v1/files/{file_id}/ocr", json={"model": "echo"}))
    assert http.get(f"/v1/files/{file_id}").status_code == 200
    assert [file["id"] for file in http.get("/v1/files").json()["data"]] == [file_id]
    assert http.get("/livez").status_code == 200
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert [name for name, said in ready.json()["checks"].items() if said != "ok"] == ["blob store"]


def recovered(http: httpx.Client, file_id: str) -> None:
    """Everything works at once, without a restart; readiness is looked at again within seconds."""
    assert http.get(f"/v1/files/{file_id}/content").content == KEPT
    new = upload(http, b"new").json()["id"]
    assert http.get(f"/v1/files/{new}/content").content == b"new"
    assert len(http.get("/v1/files").json()["data"]) == 2
    end = time.monotonic() + SOON
    while http.get("/readyz").status_code != 200:
        assert time.monotonic() < end


@pytest.mark.parametrize("kind", ["local"], indirect=True)
async def test_r7_folder_of_blobs_gone_and_back(
    recto: Recto, database_url: str, blob_url: str, sweep_later: Sweep
) -> None:
    """R7: the folder is unmounted, say; 503 until it is back, and no upload goes elsewhere."""
    recto.start()
    folder = Path(unquote(urlsplit(blob_url).path))
    with httpx.Client(base_url=recto.base, timeout=30) as http:
        file_id = upload(http, KEPT).json()["id"]
        away = folder.rename(folder.with_name("away"))
        without_the_store(http, file_id)
        assert not folder.exists()
        away.rename(folder)
        recovered(http, file_id)
    recto.stop()
    async with Stores(database_url, blob_url) as stores:
        await sweep_later()
        assert await problems(stores, swept=True) == []


class Gate:
    """A way to a server on loopback that can be shut: then connections are refused or cut."""

    def __init__(self, port: int) -> None:
        self._inside = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", self._inside)
        both = {writer, inner}
        self._open |= both
        try:
            await asyncio.gather(_copy(reader, inner), _copy(inner_reader, writer))
        finally:
            self._open -= both
            writer.close()
            inner.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


@pytest.mark.parametrize("kind", ["local"], indirect=True)
async def test_r7_s3_server_gone_and_back(
    tmp_path: Path,
    s3_server: s3server.S3Server,
    s3_url: str,
    database_url: str,
) -> None:
    """R7: nothing listens where the S3 server was; 503 until it does again."""
    gate = Gate(s3_server.port)
    await gate.open()
    through = s3_url.replace(f":{s3_server.port}", f":{gate.port}")
    recto = Recto(tmp_path / "recto", DATABASE_URL=database_url, BLOB_URL=through)
    try:
        await asyncio.to_thread(recto.start)
        with httpx.Client(base_url=recto.base, timeout=60) as http:
            file_id = (await asyncio.to_thread(upload, http, KEPT)).json()["id"]
            await gate.shut()
            await asyncio.to_thread(without_the_store, http, file_id)
            await gate.open()
            await asyncio.to_thread(recovered, http, file_id)
        await asyncio.to_thread(recto.stop)
    finally:
        recto.close()
        await gate.shut()
    async with Stores(database_url, s3_url) as stores:
        assert await problems(stores, swept=True) == []
        assert left_over(s3_url) == []
