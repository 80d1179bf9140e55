"""JSON bodies under bounds: one body, its values, all bodies at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.requests import Request

from files_api.kit import bodies as module
from files_api.kit import errors
from files_api.kit.bodies import ClientGoneError, JsonBodies


class Thing(BaseModel):
    name: str = "none"


def request_of(*chunks: bytes, gone: bool = False) -> Request:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    end = {"type": "http.disconnect"} if gone else {"type": "http.request", "body": b""}
    waiting = iter([*messages, end])

    async def receive() -> dict[str, Any]:
        return next(waiting)

    return Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, receive)


@pytest.fixture(autouse=True)
def _all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_BYTES", 0)


async def read(bodies: JsonBodies, request: Request, absent: object = None) -> Thing:
    async with bodies.read(request, Thing, absent) as body:
        return body


async def test_a_body_in_pieces_is_one_body() -> None:
    assert (await read(JsonBodies(100, 100), request_of(b'{"na', b'me": "x"}'))).name == "x"


async def test_an_absent_body_may_mean_something() -> None:
    assert (await read(JsonBodies(9, 9), request_of(), absent={})).name == "none"
    with pytest.raises(errors.InvalidJson):
        await read(JsonBodies(9, 9), request_of())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"{", errors.InvalidJson),
        (b'{"name": NaN}', errors.InvalidJson),
        (b'{"name": "\\ud800"}', errors.InvalidJson),
        (b"[" * 5000 + b"]" * 5000, errors.InvalidJson),
        (b"[" + b"[]," * 100_001 + b"[]]", errors.InvalidRequest),
        (b"[]", errors.ValidationFailed),
        (b'{"name": 3}', errors.ValidationFailed),
        (b'"' + b"x" * 2_000_000 + b'"', errors.TooLarge),
    ],
)
async def test_what_is_refused(text: bytes, error: type[errors.AppError]) -> None:
    bodies = JsonBodies(1_000_000, 1_000_000)
    with pytest.raises(error) as caught:
        await read(bodies, request_of(text))
    assert type(caught.value) is error
    assert "xxx" not in caught.value.message
    assert (await read(bodies, request_of(b" " * 999_998 + b"{}"))).name == "none"


async def test_all_bodies_together_are_bounded_until_each_is_done() -> None:
    bodies = JsonBodies(60, 100)
    text = b'{"name": "' + b"x" * 48 + b'"}'
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bodies.read(request_of(text), Thing))
        with pytest.raises(errors.Overloaded):
            await read(bodies, request_of(text))
        assert (await read(bodies, request_of(b"{}"))).name == "none"
    assert len((await read(bodies, request_of(text))).name) == 48


async def test_a_client_that_leaves_half_way_holds_nothing() -> None:
    bodies = JsonBodies(60, 60)
    for _ in range(3):
        with pytest.raises(ClientGoneError):
            await read(bodies, request_of(b'{"name": "' + b"x" * 40, gone=True))
    assert len((await read(bodies, request_of(b'{"name": "' + b"x" * 40 + b'"}'))).name) == 40


async def test_a_cancelled_reading_holds_nothing() -> None:
    bodies = JsonBodies(60, 60)

    async def never() -> AsyncIterator[bytes]:
        yield b'{"name": "' + b"x" * 40
        await asyncio.Event().wait()

    request = request_of()
    request.stream = never  # type: ignore[method-assign]
    task = asyncio.create_task(read(bodies, request))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await read(bodies, request_of(b'{"name": "' + b"x" * 40 + b'"}'))).name) == 40


async def test_small_bodies_get_in_when_large_ones_hold_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SMALL_BYTES", 20)
    bodies = JsonBodies(60, 60)
    async with bodies.read(request_of(b'{"name": "' + b"x" * 48 + b'"}'), Thing):
        with pytest.raises(errors.Overloaded):
            await read(bodies, request_of(b'{"name": "xxxxxxxxxxxx"}'))
        assert (await read(bodies, request_of(b'{"name": "x"}'))).name == "x"


async def test_a_body_that_stops_coming_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SECONDS", 0.01)

    async def stalls() -> AsyncIterator[bytes]:
        yield b'{"name": "'
        await asyncio.Event().wait()

    request = request_of()
    request.stream = stalls  # type: ignore[method-assign]
    bodies = JsonBodies(20, 20)
    with pytest.raises(errors.BodyTimeout):
        await read(bodies, request)
    assert (await read(bodies, request_of(b'{"name": "xxxxx"}'))).name == "xxxxx"
