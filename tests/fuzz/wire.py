"""Requests as they come from a socket: any bytes, in any pieces, straight to the ASGI application.

An HTTP client would put most hostile requests in order before it sends them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    status: int
    """0 when there was no answer, which is right only where the client left."""
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == name]

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    service: ASGIApp,
    method: str,
    target: bytes,
    headers: Headers = (),
    pieces: Sequence[bytes] = (b"",),
    *,
    leaves: bool = False,
) -> Answer:
    """Send a request and return the whole answer.

    Args:
        service: the ASGI application.
        method: the HTTP method.
        target: path and query as they stand in the request line.
        headers: names in lower case; ``Host`` is added where it is absent.
        pieces: the body as it comes.
        leaves: the client hangs up after the last piece, which is not the body's last.
    """
    path, _, query = target.partition(b"?")
    if all(name != b"host" for name, _ in headers):
        headers = [(b"host", b"127.0.0.1:8000"), *headers]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    last = len(pieces) - 1
    coming: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": leaves or number < last}
        for number, piece in enumerate(pieces)
    ]
    if leaves:
        coming.append({"type": "http.disconnect"})
    sent: list[Message] = []

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await asyncio.Event().wait()  # a client that waits for its answer
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        sent.append(message)

    await service(scope, receive, send)
    starts = [message for message in sent if message["type"] == "http.response.start"]
    body = b"".join(message.get("body", b"") for message in sent)
    if not starts:
        return Answer(0, [], body)
    assert len(starts) == 1
    return Answer(starts[0]["status"], list(starts[0]["headers"]), body)


def check_error(answer: Answer) -> str:
    """Check the documented body of an error and its request id; return its code."""
    body = answer.json()
    facts = {key: body[key] for key in ("message", "type", "param", "code")}
    assert body["error"] == facts
    assert body["object"] == "error"
    assert isinstance(body["detail"], list) == (answer.status == 422)
    assert answer.header(b"x-request-id") == [body["request_id"]]
    assert answer.header(b"content-type") == ["application/json"]
    assert len(answer.body) < 4000
    return str(facts["code"])
