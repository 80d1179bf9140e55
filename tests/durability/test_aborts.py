"""R2: clients that leave in the middle of an upload; nothing of it is ever seen, nothing stays."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from urllib.parse import urlsplit

import httpx

from files_api.files.installation import MARKERS
from tests.durability.checker import Stores, left_over, problems
from tests.durability.conftest import Sweep
from tests.durability.process import Recto
from tests.durability.scale import SEED, scaled

ABORTS = scaled(100, 500)
AT_ONCE = 8
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that is a reset: the client's machine has crashed, say."""


def form(path: str, field: str, content: bytes) -> bytes:
    """Return a whole HTTP request that uploads a form with one file."""
    request = httpx.Request("POST", f"http://recto.test{path}", files={field: ("a.bin", content)})
    request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content


def cut(rng: random.Random, request: bytes) -> int:
    """Return how many bytes of a request are sent: often few or nearly all, never all."""
    head = request.index(b"\r\n\r\n") + 4
    spans = ((0, head), (head, len(request)), (len(request) - 60, len(request)))
    return rng.randrange(*rng.choices(spans, (1, 6, 1))[0])


async def abort(base: str, sent: bytes, *, reset: bool) -> None:
    """Send the beginning of a request, then leave."""
    where = urlsplit(base)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.write(sent)
    await writer.drain()
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        assert reset


async def test_r2_aborted_uploads_are_never_seen(
    recto: Recto, database_url: str, blob_url: str, sweep_later: Sweep
) -> None:
    """R2: uploads in one request and single parts of large ones, cut at random bytes."""
    recto.start()
    rng = random.Random(SEED)
    async with httpx.AsyncClient(base_url=recto.base, timeout=60) as http:
        asked = {"bytes": 10**8, "filename": "big", "mime_type": "a/b", "purpose": "ocr"}
        opened = await http.post("/v1/uploads", json=asked)
        assert opened.status_code == 200, opened.text
        upload = f"/v1/uploads/{opened.json()['id']}"
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            path, field = (f"{upload}/parts", "data") if number % 3 == 0 else ("/v1/files", "file")
            most = 20e6 if number % 10 == 1 else 3e6  # S3 gets more than 8 MiB in parts
            request = form(path, field, rng.randbytes(int(most * rng.random() ** 3)))
            sent = request[: cut(rng, request)]
            async with turns:
                await abort(recto.base, sent, reset=number % 2 == 0)

        await asyncio.gather(*map(one, range(ABORTS)))
        assert (await http.get("/v1/files")).json()["data"] == []
        # The same request, sent whole, is a file: the cut alone was what was wrong.
        kept = (await http.post("/v1/files", files={"file": ("a.bin", b"kept")})).json()
        assert [file["id"] for file in (await http.get("/v1/files")).json()["data"]] == [kept["id"]]
        assert (await http.get(f"/v1/files/{kept['id']}/content")).content == b"kept"
    recto.stop()
    async with Stores(database_url, blob_url) as stores:
        # The server lived all the time, so it has cleared everything itself.
        assert left_over(blob_url) == []
        assert [file["id"] for file in await stores.rows("SELECT id FROM files")] == [kept["id"]]
        assert await stores.rows("SELECT id FROM upload_parts") == []
        blobs = {blob.key async for blob in stores.blobs.blobs()}
        assert len(blobs - MARKERS) == 1
        await sweep_later()
        assert await problems(stores, swept=True) == [], f"RECTO_SEED={SEED}"
        assert left_over(blob_url) == []
