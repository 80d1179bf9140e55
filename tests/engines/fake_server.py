"""A small server that says exactly the bytes a test wants, and keeps what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes one whole HTTP answer."""


@dataclass
class Request:
    """One request as it came."""

    line: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """Number of the connection it came on, from 1."""


@dataclass
class Server:
    """What the server was asked, and what it says: the answers in order, then the last again."""

    answers: list[Answer]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request has come."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller has closed its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        number = self.connections
        try:
            while request := await _request(reader, number):
                self.requests.append(request)
                self.asked.set()
                turn = min(len(self.requests), len(self.answers))
                await self.answers[turn - 1](writer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.gone.set()
            writer.close()


async def _request(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {name.lower(): value for name, value in (line.split(": ") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0], headers, body, connection)


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    """Run a server on loopback with these answers."""
    server = Server(list(answers))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        yield server


def plain(
    body: bytes, status: str = "200 OK", kind: str = "application/json", extra: str = ""
) -> Answer:
    """Return an answer of a known length."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)

    return answer


def stream(*chunks: bytes, end: bool = True) -> Answer:
    """Return a stream of these chunks; without ``end`` it stays open."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for chunk in chunks:
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        if end:
            writer.write(b"0\r\n\r\n")

    return answer


def late(answer: Answer, turns: int = 50) -> Answer:
    """Return a stream whose end comes some turns of the event loop after all else."""

    async def later(writer: asyncio.StreamWriter) -> None:
        await answer(writer)
        for _ in range(turns):
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    return later


def cut(answer: Answer, *, reset: bool = False) -> Answer:
    """Return an answer after which the connection ends."""

    async def ended(writer: asyncio.StreamWriter) -> None:
        await answer(writer)
        await writer.drain()
        if reset:
            writer.transport.abort()
        writer.close()

    return ended


async def nothing(writer: asyncio.StreamWriter) -> None:
    """Say nothing, and leave the connection as it is."""


def event(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Return an event of a chat answer."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return data({"object": "chat.completion.chunk", "choices": [choice]})


def usage(prompt: object, completion: object) -> bytes:
    """Return the event with the counts."""
    return data(
        {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}
    )


def data(value: object) -> bytes:
    """Return any value as an event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
