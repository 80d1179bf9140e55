"""Streams over sockets: clients that take nothing, clients of HTTP/1.0, and room for bodies."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ocr_api import app, listening
from ocr_api.settings import Settings
from tests import helpers
from tests.api.test_ocr import TEXT_PDF, data_uri, upload
from tests.api.test_ocr_stream import GLM, HANGING, before, parsed, served
from tests.conftest import running
from tests.e2e.test_slow_clients import PATIENCE, opened, serving, to_the_end
from tests.engines.fake_server import DONE, event, stream, usage

LARGE = "".join(f"line {number}\n" for number in range(200))
"""About all that a page may hold which is nearly empty."""
READ = 20
"""So many of these are more than the buffers between the door and a client that takes nothing."""
SAID = stream(event(LARGE), event(finish="stop"), usage(7, 5), DONE)
ASKED = {"model": "echo", "document": {"document_url": data_uri(TEXT_PDF)}, "pages": "0-2"}
ENOUGH = PATIENCE / 2
"""Less than the time after which a client that takes nothing is cut off."""


# --- clients that take nothing --------------------------------------------------------------------


@dataclass
class Narrow:
    """A service whose connections hold little."""

    base: str = ""
    stuck: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an answer waits for its client."""


@asynccontextmanager
async def narrow(service: ASGIApp) -> AsyncIterator[Narrow]:
    found = Narrow()

    class Flow(listening.Flow):
        async def drain(self) -> None:
            found.stuck.set()
            await super().drain()

    class Protocol(listening.GuardedProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport.set_write_buffer_limits(high=1000)
            self.flow = Flow(transport, self._full)

    async with serving(service, protocol=Protocol, unread_seconds=10 * PATIENCE) as here:
        found.base = here.base
        yield found


def posted(
    base: str, path: str, body: bytes, *headers: str, version: str = "1.1", sent: int | None = None
) -> socket.socket:
    """Return the connection of a request, of whose body so many bytes were sent (None: all).

    Nothing is taken from it, and it holds little.
    """
    host, port = base.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    lines = (f"POST {path} HTTP/{version}", "Host: 127.0.0.1", *headers)
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}")) + "\r\n\r\n"
    client.sendall(head.encode() + body[:sent])
    client.setblocking(False)
    return client


async def rest_of(client: socket.socket) -> bytes:
    """Return all that is left, to the end."""
    reader, writer = await asyncio.open_connection(sock=client)
    return await to_the_end((reader, writer))


@pytest.mark.parametrize("why", ["deadline", "deleted"])
async def test_a_client_that_takes_nothing_is_no_way_around_the_end(
    settings: Settings, why: str
) -> None:
    """R17, R21: its run ends, its pages are not read on, and its place is another's."""
    hanging = asyncio.Event()
    answers = dict.fromkeys(range(READ), SAID) | {READ: before(hanging, HANGING)}
    one = {"max_requests": 1, "org_requests": 1}
    async with (
        served(settings, answers, **one) as (service, engine),
        narrow(service) as here,
        httpx.AsyncClient(base_url=here.base, timeout=PATIENCE) as other,
    ):
        path = f"/v1/files/{(name := await upload(other, helpers.pages_pdf(READ + 1)))}/ocr"
        seconds = "5" if why == "deadline" else "600"
        client = posted(
            here.base,
            path,
            json.dumps({"model": GLM, "stream": True}).encode(),
            f"X-Request-Timeout: {seconds}",
            "Connection: close",
        )
        async with asyncio.timeout(ENOUGH):
            await here.stuck.wait()
            await hanging.wait()
            refused = await other.post("/v1/ocr", json=ASKED)
            assert refused.status_code in (429, 503)
            if why == "deleted":
                assert (await other.delete(f"/v1/files/{name}")).status_code == 200
            await engine.gone.wait()
            while (answer := await other.post("/v1/ocr", json=ASKED)).status_code != 200:
                assert answer.status_code in (429, 503)
        text = await rest_of(client)
    assert text.startswith(b"HTTP/1.1 200")
    events = parsed(unchunked(text.partition(b"\r\n\r\n")[2]))
    names = [event_name for event_name, _ in events]
    assert (names[0], names[-1]) == ("start", "error")
    assert 1 <= names.count("page") < READ
    code = "deadline_exceeded" if why == "deadline" else "file_not_found"
    assert json.loads(events[-1][1])["code"] == code


def unchunked(text: bytes) -> bytes:
    whole = b""
    while text:
        size, _, text = text.partition(b"\r\n")
        whole, text = whole + text[: int(size, 16)], text[int(size, 16) + 2 :]
    return whole


# --- HTTP/1.0 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_by_http_1_0_has_no_chunks(settings: Settings, *, streams: bool) -> None:
    """RFC 9112, 6.1: its length is known, or it ends with the connection."""
    body = json.dumps({**ASKED, "stream": streams}).encode()
    service = app.create(settings)
    async with running(service), serving(service) as here:
        keeps = "Connection: keep-alive"
        answer = await rest_of(posted(here.base, "/v1/ocr", body, keeps, version="1.0"))
    head, _, text = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head
    assert (b"content-length" in head) is not streams
    if streams:
        names = [name for name, _ in parsed(text)]
        assert names == ["start", "page", "page", "page", "done"]
    else:
        assert len(json.loads(text)["pages"]) == 3


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("length", [None, 6])
async def test_bodies_by_http_1_0(method: str, length: int | None) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"", b"two"):
            yield piece

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {} if length is None else {"content-length": str(length)}
        await StreamingResponse(pieces(), headers=headers)(scope, receive, send)

    async with serving(service) as here:
        text = b"%s / HTTP/1.0\r\n\r\n" % method.encode()
        head, _, body = (await to_the_end(await opened(here.base, text))).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert (b"content-length: 6" in head) is (length is not None)
    assert body == (b"onetwo" if method == "GET" else b"")


async def test_an_application_that_fails_by_http_1_0() -> None:
    """Its client gets a 500 before the answer's begin, and the connection's end after it."""

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        elif scope["path"] == "/body":
            text = await Request(scope, receive).body()
            await PlainTextResponse(text)(scope, receive, send)
            return
        raise ValueError("a test")

    async with serving(service) as here:
        early = await to_the_end(await opened(here.base, b"GET / HTTP/1.0\r\n\r\n"))
        late = await to_the_end(await opened(here.base, b"GET /late HTTP/1.0\r\n\r\n"))
        text = b"POST /body HTTP/1.0\r\nContent-Length: 4\r\n\r\nsent"
        body = await to_the_end(await opened(here.base, text))
    assert early.startswith(b"HTTP/1.1 500 ")
    assert early.endswith(b"\r\n\r\nInternal Server Error")
    assert late.endswith(b"\r\n\r\nhalf")
    assert body.endswith(b"\r\n\r\nsent")


# --- room for bodies ------------------------------------------------------------------------------


async def test_requests_count_before_their_bodies_come(settings: Settings) -> None:
    """R14: of 60 that have sent half their bodies ten are refused at once, and 50 are read."""
    body = json.dumps({**ASKED, "pages": "0"}).encode()
    service = app.create(settings.model_copy(update={"max_requests": 50}))
    async with running(service), serving(service) as here, AsyncExitStack() as stack:
        streams, heads = [], {}
        for _ in range(60):
            client = posted(here.base, "/v1/ocr", body, sent=len(body) // 2)
            reader, writer = await asyncio.open_connection(sock=client)
            stack.callback(writer.transport.abort)
            head = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            stack.callback(head.cancel)
            heads[head] = writer
            streams.append(writer)
        refused: set[asyncio.Future[bytes]] = set()
        async with asyncio.timeout(ENOUGH):
            while len(refused) < 10:
                refused, _ = await asyncio.wait(heads, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
        for one in refused:
            assert one.result().startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 5\r\n" in one.result()
            del heads[one]
        assert len(heads) == 50
        assert not any(one.done() for one in heads)
        for writer in heads.values():
            writer.write(body[len(body) // 2 :])
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*heads)
    assert [answer[9:12] for answer in answers] == [b"200"] * 50
