"""R17: clients that send slowly, never end, or never read cannot hold the service.

The deadlines are short here: what is shown is that they are kept, and that they end nothing else.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ocr_api import listening
from tests.e2e.conftest import Server, started

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PATIENCE = 30.0
"""A test fails after so many seconds; nothing is measured by it."""


# --- 1,000 half-open connections ------------------------------------------------------------------

HALF_OPEN = 1000
DATABASE_FILES = 50
"""By so many its connections may have become more, which it keeps."""
MULTIPART = (
    b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%PDF-1.7'
)
HALVES = (
    b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ",
    b"",
    b'POST /v1/ocr HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n{"model": ',
    MULTIPART,
)
"""What the connections send before they fall silent; the headers of the last two are whole."""


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with deadlines of five seconds, and room for many half uploads."""
    folder = tmp_path_factory.mktemp("hurried")
    uploads = {"MAX_UPLOADS": "2000", "MAX_ORG_UPLOADS": "2000"}
    with started(
        folder, HEADER_SECONDS="5", BODY_SECONDS="5", SHOW_HIDDEN_MODELS="true", **uploads
    ) as server:
        yield server


@pytest.fixture
def _many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < HALF_OPEN + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, HALF_OPEN + 500), hard))


@pytest.mark.usefixtures("_many_files")
async def test_a_thousand_half_open_connections_are_closed_and_hinder_nobody(
    hurried: Server,
) -> None:
    """R17."""
    async with httpx.AsyncClient(base_url=hurried.base, timeout=PATIENCE) as client:
        await ordinary_requests(client)
        before = await open_files(client)
        aborted = await counted(client, "ocr_upload_aborted_total")
        held = await asyncio.gather(
            *(opened(hurried.base, HALVES[number % 4]) for number in range(HALF_OPEN))
        )
        answers = asyncio.gather(*map(to_the_end, held))
        most = before
        while not answers.done():
            await ordinary_requests(client)
            most = max(most, await open_files(client))
        assert most >= before + HALF_OPEN
        statuses = [text[9:12] for text in await answers]
        assert statuses[0::4] == statuses[1::4] == [b""] * (HALF_OPEN // 4)
        assert statuses[2::4] == statuses[3::4] == [b"408"] * (HALF_OPEN // 4)
        assert await counted(client, "ocr_upload_aborted_total") == aborted + HALF_OPEN // 4
        await until(lambda: open_files(client), before + DATABASE_FILES)
        await ordinary_requests(client)
    assert not list((hurried.data / "blobs" / ".tmp").glob("*"))


async def ordinary_requests(client: httpx.AsyncClient) -> None:
    """Upload, list, read, download, delete; every answer is 200."""
    content = b"%PDF-1.7 " + b"x" * 10_000
    kept = await client.post("/v1/files", files={"file": ("a.pdf", content)})
    assert kept.status_code == 200, kept.text
    name = f"/v1/files/{kept.json()['id']}"
    for answer in await asyncio.gather(
        client.get("/v1/files"), client.get("/livez"), client.get(name)
    ):
        assert answer.status_code == 200, answer.text
    assert (await client.get(f"{name}/content")).content == content
    assert (await client.delete(name)).status_code == 200


async def test_a_body_below_the_least_rate_is_ended_and_one_above_is_not(hurried: Server) -> None:
    """R17: a byte every tenth of a second keeps no connection open."""
    body = b'{"model": "none", "document": {"document_content": "eA=="}, "x": "%s"}' % (
        b"y" * 15_000
    )
    head = b"POST /v1/ocr HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    pieces = [body[at : at + 200] for at in range(0, len(body), 200)]
    slow, fair = await asyncio.gather(
        dripping(await opened(hurried.base, HALVES[2]), b"x"),
        dripping(await opened(hurried.base, head), *pieces),
    )
    assert (slow[9:12], fair[9:12]) == (b"408", b"400")
    assert b"connection: close" in slow


async def open_files(client: httpx.AsyncClient) -> float:
    return await counted(client, "process_open_fds")


async def counted(client: httpx.AsyncClient, name: str) -> float:
    """Return a number of ``GET /metrics``."""
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


async def until(look: Callable[[], Awaitable[float]], most: float) -> None:
    """Look again and again until there is no more than this; nobody tells."""
    async with asyncio.timeout(PATIENCE):
        while await look() > most:  # noqa: ASYNC110 - other processes have no event
            await asyncio.sleep(0.02)


# --- one connection, and the protocol alone -------------------------------------------------------


async def opened(base: str, data: bytes) -> Stream:
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    return reader, writer


async def to_the_end(stream: Stream) -> bytes:
    """Return what comes until the server closes; sending nothing."""
    reader, writer = stream
    text = b""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                text += piece
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return text


async def dripping(stream: Stream, *pieces: bytes, pause: float = 0.1) -> bytes:
    """Send the pieces with pauses, the last one for ever, until the server closes or answers."""
    reader, writer = stream
    waiting = list(pieces)
    answer = asyncio.ensure_future(reader.read(65536))
    async with asyncio.timeout(PATIENCE):
        while not answer.done():
            writer.write(waiting.pop(0) if len(waiting) > 1 else waiting[0])
            await asyncio.wait({answer}, timeout=pause)
    with suppress(ConnectionError):
        answer.result()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return b"" if answer.exception() else answer.result()


@dataclass(frozen=True)
class Here:
    """A server in this process."""

    base: str
    server: uvicorn.Server

    async def connections(self) -> int:
        """Return how many are open."""
        return len(self.server.server_state.connections)


@asynccontextmanager
async def serving(
    app: ASGIApp,
    header_seconds: float = 0.3,
    protocol: type[asyncio.Protocol] = listening.GuardedProtocol,
    **more: Any,
) -> AsyncIterator[Here]:
    """Run our protocol over sockets before an application."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {"unread_seconds": 0.3, "lifespan": "off", **more}
    config = listening.Config(app, header_seconds, **options)
    config.http = protocol
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield Here(f"http://127.0.0.1:{listener.getsockname()[1]}", server)
    finally:
        server.should_exit = True
        await task


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body's length and the headers that came."""
    request = Request(scope, receive)
    body = await request.body()
    answer = {"bytes": len(body), "headers": dict(request.headers)}
    await JSONResponse(answer)(scope, receive, send)


def request_text(headers: bytes = b"", target: bytes = b"/", method: bytes = b"GET") -> bytes:
    return b"%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (method, target, headers)


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n", b"\r\n"])
async def test_half_a_head_is_closed(begun: bytes) -> None:
    """R17."""
    async with serving(echo) as here:
        assert await to_the_end(await opened(here.base, begun)) == b""


@pytest.mark.parametrize(
    ("begun", "drop"),
    [(b"GET /", b"G"), (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"b"), (b"", b"\r\n")],
)
async def test_a_dripping_head_is_closed(begun: bytes, drop: bytes) -> None:
    """R17: more bytes do not move the deadline."""
    async with serving(echo) as here:
        assert await dripping(await opened(here.base, begun), drop, pause=0.05) == b""


@pytest.mark.parametrize("second", [b"GET /again HTTP/1.1\r\nHost", b"\r\n"])
async def test_a_connection_that_was_used_has_the_same_deadline(second: bytes) -> None:
    """R17: uvicorn forgets its keep-alive deadline at the first byte that follows."""
    async with serving(echo) as here:
        reader, writer = await opened(here.base, request_text())
        first = await reader.readuntil(b"}}")
        assert first.startswith(b"HTTP/1.1 200")
        writer.write(request_text())
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
        writer.write(second)
        assert await to_the_end((reader, writer)) == b""


async def test_the_next_head_may_be_late_while_an_answer_is_made() -> None:
    """Half of a pipelined request does not end the work on the one before it."""
    work = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await work.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async with serving(app, header_seconds=0.05, timeout_keep_alive=1) as here:
        stream = await opened(here.base, request_text() + b"GET / HTTP/1.1\r\n")
        reading = asyncio.ensure_future(to_the_end(stream))
        done, _ = await asyncio.wait({reading}, timeout=0.3)
        assert not done
        work.set()
        stream[1].write(b"Host: x\r\n\r\n")
        assert (await reading).count(b"done") >= 1


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (request_text(b"A: " + b"x" * 65_000 + b"\r\n"), b"200"),
        (request_text(b"A: " + b"x" * 66_000 + b"\r\n"), b"431"),
        (request_text(b"A: b\r\n" * 12_000), b"431"),
        (request_text(target=b"/" + b"x" * 8191), b"200"),
        (request_text(target=b"/" + b"x" * 8192), b"414"),
        (b"GET /" + b"x" * 100_000, b"431"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 400_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"x" * 400_000, b"431"),
        (b"\r\n" * 200_000, b"431"),
        (b"\x16\x03\x01 what is this", b"400"),
    ],
    ids=lambda value: value if len(value) == 3 else "",
)
async def test_heads_have_a_length(text: bytes, status: bytes) -> None:
    """R17: httptools has no bound of its own."""
    async with serving(echo) as here:
        reader, writer = await opened(here.base, text)
        answer = await asyncio.wait_for(reader.read(100), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        writer.close()


async def test_trailers_are_bounded_and_change_no_header() -> None:
    """R17: what follows a chunked body is neither kept nor believed."""
    head = request_text(b"Transfer-Encoding: chunked\r\nA: first\r\n", method=b"POST")
    body = b"3\r\nabc\r\n0\r\nA: second\r\nB: c\r\n\r\n"
    async with serving(echo) as here:
        reader, writer = await opened(here.base, head + body)
        answer = (await reader.readuntil(b"}}")).partition(b"\r\n\r\n")[2]
        assert json.loads(answer)["bytes"] == 3
        assert json.loads(answer)["headers"]["a"] == "first"
        assert "b" not in json.loads(answer)["headers"]
        writer.close()
        for endless in (b"A: b\r\n" * 100_000, b"A: " + b"b" * 600_000):
            stream = await opened(here.base, head + b"3\r\nabc\r\n0\r\n" + endless)
            assert await to_the_end(stream) == b""  # the request is being read: no other answer


class RoomyProtocol(listening.GuardedProtocol):
    """Takes whole answers at once, so that the application is done while nothing was read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=100_000_000)


@pytest.mark.parametrize("protocol", [listening.GuardedProtocol, RoomyProtocol])
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
async def test_a_client_that_never_reads_is_cut_off(
    protocol: type[asyncio.Protocol], close: bytes
) -> None:
    """R17: closing alone would wait until the client has taken everything."""
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    async with serving(app, protocol=protocol, timeout_keep_alive=1) as here:
        _, writer = await opened(here.base, request_text(close))
        async with asyncio.timeout(PATIENCE):
            await ended.wait()  # uvicorn lets it send in vain when the connection is gone
            await until(here.connections, 0)
        writer.transport.abort()


async def test_a_client_that_reads_is_never_cut_off() -> None:
    """An answer that takes much longer than the deadline, with a buffer that is always full."""
    clock = asyncio.get_running_loop()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        end = clock.time() + 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while clock.time() < end:
            await send({"type": "http.response.body", "body": b"x" * 200_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"the end"})

    async with serving(app, unread_seconds=0.1) as here, httpx.AsyncClient() as client:
        assert (await client.get(here.base, timeout=PATIENCE)).content.endswith(b"xthe end")


async def test_a_body_that_nobody_wants_is_read_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R17: an answer that comes before the body's end (401, 413) leaves no connection open."""
    monkeypatch.setattr(listening, "LINGER_SECONDS", 0.3)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("too large", 413)(scope, receive, send)

    async with serving(app) as here:
        reader, writer = await opened(here.base, request_text(b"Content-Length: 99999\r\n"))
        assert b"too large" in await reader.readuntil(b"large")
        assert await dripping((reader, writer), b"x", pause=0.02) == b""
        stream = await opened(here.base, request_text(b"Content-Length: 50000\r\n") + b"x" * 50_000)
        stream[1].write(request_text(b"Connection: close\r\n"))
        assert (await to_the_end(stream)).count(b"too large") == 2


async def test_too_many_connections_are_refused_and_there_is_room_again() -> None:
    """R17: there are always descriptors left for files and the database."""
    async with serving(echo, max_connections=3) as here:
        held = [await opened(here.base, b"GET") for _ in range(3)]
        refused = await to_the_end(await opened(here.base, request_text()))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in refused
        for stream in held:
            assert await to_the_end(stream) == b""
        reader, writer = await opened(here.base, request_text())
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
        writer.close()


def test_workers_get_the_same_configuration() -> None:
    """Of several processes each is handed it by pickle."""
    made = listening.configure("ocr_api.cli.serving:worker", 3.0, factory=True, workers=2)
    given: listening.Config = pickle.loads(pickle.dumps(made))
    assert (given.header_seconds, given.http) == (3.0, listening.GuardedProtocol)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft >= min(hard, 65_536)
    assert given.max_connections == min(soft - 256, 8192)
