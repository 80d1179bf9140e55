"""R17: requests that come ahead of their answers, ask for an upgrade, or whose client leaves."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ocr_api import listening
from tests.e2e.test_slow_clients import (
    PATIENCE,
    Here,
    Stream,
    echo,
    opened,
    request_text,
    serving,
    to_the_end,
    until,
)

TINY = b"GET /a HTTP/1.1\r\n\r\n"


class Waiting:
    """An application that answers with its path, and with nothing before it is let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.started = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started += 1
        self.begun.set()
        await self.go.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await PlainTextResponse(f"<{scope['path']} {size}>")(scope, receive, send)


def only(here: Here) -> listening.GuardedProtocol:
    """Return the server's side of the only connection."""
    (protocol,) = here.server.server_state.connections
    assert isinstance(protocol, listening.GuardedProtocol)
    return protocol


async def connected(here: Here) -> tuple[Stream, listening.GuardedProtocol]:
    """Open a connection; return both sides of it."""
    stream = await opened(here.base, b"")
    async with asyncio.timeout(PATIENCE):
        while not here.server.server_state.connections:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    return stream, only(here)


async def written(stream: Stream, data: bytes) -> None:
    """Send all of it, reading nothing."""
    async with asyncio.timeout(PATIENCE):
        stream[1].write(data)
        while stream[1].transport.get_write_buffer_size():  # noqa: ASYNC110 - drain ends sooner
            await asyncio.sleep(0.005)


# --- requests ahead of their answers --------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 4, listening.MAX_WAITING + 1])
async def test_a_small_pipeline_is_answered_in_order(number: int) -> None:
    app = Waiting()
    async with serving(app) as here:
        parts = [
            request_text(b"Content-Length: %d\r\n" % at, target=b"/%d" % at, method=b"POST")
            + b"x" * at
            for at in range(number)
        ]
        reader, writer = await opened(here.base, b"".join(parts))
        app.go.set()
        answers = b""
        async with asyncio.timeout(PATIENCE):
            while answers.count(b">") < number:
                answers += await reader.read(65536)
        places = [answers.find(b"</%d %d>" % (at, at)) for at in range(number)]
        assert -1 not in places
        assert places == sorted(places)
        assert b"connection: close" not in answers
        writer.write(request_text(target=b"/again"))  # and the connection is as good as before
        assert b"</again 0>" in await reader.readuntil(b">")
        writer.close()


async def test_a_flood_of_tiny_requests_is_dropped() -> None:
    """R17: 220,000 requests in 4 MB; the first few are answered, no other is kept."""
    app = Waiting()
    most = listening.MAX_WAITING + 1
    async with serving(app) as here:
        stream, protocol = await connected(here)
        await written(stream, TINY * 220_000)
        assert app.started == 1
        assert len(protocol.pipeline) == listening.MAX_WAITING
        app.go.set()
        text = await to_the_end(stream)
        assert text.count(b"HTTP/1.1 200") == text.count(b"</a 0>") == app.started == most
        assert text.count(b"connection: close") == 1


async def test_little_of_a_body_is_read_ahead() -> None:
    """R17: a waiting request cannot fill the memory with its body either."""
    app = Waiting()
    size = 20_000_000
    async with serving(app) as here:
        stream, protocol = await connected(here)
        head = request_text(b"Content-Length: %d\r\n" % size, method=b"POST")
        stream[1].write(TINY + TINY + head)
        await until_true(lambda: len(protocol.pipeline) == 2)
        stream[1].write(b"x" * size)
        await until_true(lambda: protocol.flow.read_paused)
        assert len(protocol.cycle.body) < 1_000_000
        app.go.set()
        assert b"</ %d>" % size in await asyncio.wait_for(
            stream[0].readuntil(b"%d>" % size), PATIENCE
        )
        stream[1].close()


async def test_what_follows_a_last_request_is_not_answered() -> None:
    """RFC 9112, 9.6; and rubbish does not take the answer before it away."""
    for follower in (TINY, b"\x16\x03 rubbish\r\n\r\n"):
        app = Waiting()
        async with serving(app) as here:
            first = request_text(b"Connection: close\r\n" if follower == TINY else b"")
            stream = await opened(here.base, first + follower)
            await app.begun.wait()
            app.go.set()
            text = await to_the_end(stream)
            assert (text.count(b"HTTP/1.1"), text.count(b"</ 0>")) == (1, 1)
            assert b"connection: close" in text


async def until_true(look: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not look():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


# --- clients that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
async def test_a_request_hears_of_a_leaving_client_although_another_waits(together: bool) -> None:
    """R17: the work for a client that left ends; uvicorn tells only the newest request."""
    listens, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            listens.set()
        left.set()

    async with serving(app) as here:
        body = request_text(b"Content-Length: 300000\r\n", method=b"POST") + b"x" * 300_000
        stream, protocol = await connected(here)
        stream[1].write(body + TINY if together else body)
        async with asyncio.timeout(PATIENCE):
            await listens.wait()
            if not together:
                stream[1].write(TINY)
            await until_true(lambda: len(protocol.pipeline) == 1)
            stream[1].close()
            await left.wait()


# --- upgrades -------------------------------------------------------------------------------------

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
WISHES = {
    "length": request_text(
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        b"Content-Length: %d\r\nX-A: b\r\n" % len(SMUGGLED),
        method=b"POST",
    )
    + SMUGGLED,
    "chunks": request_text(
        b"Connection: upgrade\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nX-A: b\r\n",
        method=b"POST",
    )
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "none": request_text(b"X-A: b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"),
}


def answers_of(text: bytes) -> list[dict[str, Any]]:
    """Return what `echo` told of each request."""
    decoder, found, at = json.JSONDecoder(), [], 0
    plain = text.decode()
    while (at := plain.find('{"bytes"', at)) >= 0:
        value, at = decoder.raw_decode(plain, at)
        found.append(value)
    return found


@pytest.mark.parametrize("kind", WISHES)
async def test_a_wish_for_an_upgrade_is_ignored_however_it_comes(kind: str) -> None:
    """RFC 9110, 7.8: with its body, whatever the pieces; the next request is the next one."""
    wish = WISHES[kind]
    text = wish + request_text(b"X-A: next\r\nConnection: close\r\n")
    splits = [[text[:at], text[at:]] for at in range(1, len(text))]
    splits += [[text], [text[at : at + 1] for at in range(len(text))], [wish, text[len(wish) :]]]
    async with serving(echo, header_seconds=PATIENCE) as here:
        for pieces in splits:
            stream, protocol = await connected(here)
            for piece in pieces:
                protocol.data_received(piece)
            first, second = answers_of(await to_the_end(stream))
            assert first["bytes"] == (0 if kind == "none" else len(SMUGGLED)), pieces
            assert (first["headers"]["x-a"], second["headers"]["x-a"]) == ("b", "next")
            assert "upgrade" not in first["headers"]
            assert second["bytes"] == 0
            await until(here.connections, 0)


async def test_many_wishes_and_no_tunnels() -> None:
    async with serving(echo) as here:
        wish = WISHES["length"]
        last = request_text(b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n")
        found = answers_of(await to_the_end(await opened(here.base, wish * 3 + last)))
        assert [answer["bytes"] for answer in found] == [len(SMUGGLED)] * 3 + [0]
        for headers in (b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"):
            tunnel = request_text(headers, target=b"x:443", method=b"CONNECT")
            text = await to_the_end(await opened(here.base, tunnel + SMUGGLED))
            assert text.startswith(b"HTTP/1.1 400 ")
            assert text.count(b"HTTP/1.1") == 1


# --- slow readers, and early answers --------------------------------------------------------------


async def test_a_slow_steady_reader_gets_everything() -> None:
    """R17: what the kernel keeps for a client drains for long, while we can write nothing."""
    size, clock = 12_000_000, asyncio.get_running_loop()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(b"x" * size)(scope, receive, send)

    async with serving(app, unread_seconds=0.3) as here:
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        link.setblocking(False)
        with link:
            host, port = here.base.removeprefix("http://").split(":")
            await clock.sock_connect(link, (host, int(port)))
            await clock.sock_sendall(link, request_text(b"Connection: close\r\n"))
            begun, got = clock.time(), 0
            async with asyncio.timeout(PATIENCE):
                while piece := await clock.sock_recv(link, 16384):
                    got += len(piece)
                    if clock.time() < begun + 2:
                        await asyncio.sleep(0.03)  # about half a megabyte in a second
        assert got > size


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await PlainTextResponse("there is no such thing", 404)(scope, receive, send)


async def test_a_client_that_wants_to_close_sees_its_early_refusal() -> None:
    """R17: as urllib does, which sends all before it reads."""

    def ask(base: str) -> tuple[int, str, str]:
        try:
            urllib.request.urlopen(base, b"x" * 30_000_000, PATIENCE)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["connection"], error.read().decode()
        raise AssertionError

    async with serving(refused, unread_seconds=PATIENCE) as here:
        answer = await asyncio.to_thread(ask, here.base)
        assert answer == (404, "close", "there is no such thing")
        await until(here.connections, 0)


async def test_who_sends_for_ever_after_a_refusal_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R17: also when it asked for the close itself; it gets the end at once."""
    monkeypatch.setattr(listening, "LINGER_SECONDS", 0.3)
    async with serving(refused) as here:
        stream = await opened(
            here.base, request_text(b"Connection: close\r\nContent-Length: 99999\r\n")
        )
        text = await asyncio.wait_for(stream[0].read(), PATIENCE)
        assert text.endswith(b"there is no such thing")
        assert await here.connections() == 1
        with suppress(ConnectionError):
            await dripping_until_gone(stream, here)
        assert await here.connections() == 0


async def dripping_until_gone(stream: Stream, here: Here) -> None:
    async with asyncio.timeout(PATIENCE):
        while await here.connections():
            stream[1].write(b"x")
            await asyncio.sleep(0.02)
    stream[1].close()
