"""JSON bodies under bounds: one of them, its values, an owner's, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Message

from files_api.kit import bodies as module
from files_api.kit import errors
from files_api.kit.bodies import ClientGoneError, JsonBodies
from files_api.kit.patience import PatientBody
from tests.unit.files_api.test_metrics import value

SIXTY = b'{"name": "' + b"x" * 48 + b'"}'


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


async def read(
    bodies: JsonBodies, request: Request, absent: object = None, owner: str = "one"
) -> Thing:
    async with bodies.read(request, Thing, absent, owner=owner) as body:
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
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bodies.read(request_of(SIXTY), Thing, owner="one"))
        with pytest.raises(errors.Overloaded):
            await read(bodies, request_of(SIXTY), owner="two")
        assert (await read(bodies, request_of(b"{}"), owner="two")).name == "none"
    assert len((await read(bodies, request_of(SIXTY), owner="two")).name) == 48
    assert bodies.room.held == 0


async def test_a_body_may_be_let_go_of_early() -> None:
    bodies = JsonBodies(60, 60)
    async with bodies.hold(request_of(SIXTY), Thing, owner="one") as held:
        assert len(held.body.name) == 48
        with pytest.raises(errors.Overloaded):
            await read(bodies, request_of(SIXTY), owner="two")
        held.release()
        with pytest.raises(RuntimeError):
            _ = held.body
        async with bodies.hold(request_of(SIXTY), Thing, owner="two"):
            held.release()
            with pytest.raises(errors.Overloaded):
                await read(bodies, request_of(SIXTY), owner="three")
    assert bodies.room.held == 0


async def test_one_owner_holds_half_of_all_at_most() -> None:
    """R17: bodies that one key trickles shut nobody else out."""
    before = value("ocr_rate_limited_total", limit="bodies")
    bodies = JsonBodies(60, 240)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(bodies.read(request_of(SIXTY), Thing, owner="one"))
        for request in (request_of(SIXTY), request_of(b"{}")):
            with pytest.raises(errors.RateLimited, match="too many large bodies") as caught:
                await read(bodies, request)
            assert (caught.value.status, caught.value.headers()) == (429, {"Retry-After": "1"})
        for _ in range(2):
            await stack.enter_async_context(bodies.read(request_of(SIXTY), Thing, owner="two"))
        for owner, error in (
            ("one", errors.RateLimited),
            ("two", errors.RateLimited),
            ("three", errors.Overloaded),
        ):
            with pytest.raises(error):
                await read(bodies, request_of(SIXTY), owner=owner)
    assert value("ocr_rate_limited_total", limit="bodies") == before + 4
    assert bodies.room.held == 0
    assert len((await read(bodies, request_of(SIXTY))).name) == 48


async def test_a_body_that_comes_slowly_counts_while_it_comes() -> None:
    bodies, more = JsonBodies(60, 120), asyncio.Event()
    pieces = [SIXTY[:50], SIXTY[50:]]

    async def slowly() -> AsyncIterator[bytes]:
        yield pieces[0]
        await more.wait()
        yield pieces[1]

    request = request_of()
    request.stream = slowly  # type: ignore[method-assign]
    first = asyncio.create_task(read(bodies, request))
    await asyncio.sleep(0)
    with pytest.raises(errors.RateLimited):
        await read(bodies, request_of(SIXTY))
    assert len((await read(bodies, request_of(SIXTY), owner="two")).name) == 48
    more.set()
    assert len((await first).name) == 48
    assert bodies.room.held == 0


@pytest.mark.parametrize("total", [60, 61, 119])
async def test_an_owner_has_room_for_a_body_of_full_length(total: int) -> None:
    bodies = JsonBodies(60, total)
    assert len((await read(bodies, request_of(SIXTY))).name) == 48


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
    async with bodies.read(request_of(SIXTY), Thing, owner="one"):
        with pytest.raises(errors.Overloaded):
            await read(bodies, request_of(b'{"name": "xxxxxxxxxxxx"}'), owner="two")
        assert (await read(bodies, request_of(b'{"name": "x"}'))).name == "x"


async def test_a_body_that_is_late_holds_nothing() -> None:
    """R17: the deadline is of what receives; here it ends the reading."""
    waiting = [{"type": "http.request", "body": b'{"name": "', "more_body": True}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()
        raise AssertionError

    late = PatientBody(receive, 0.01)
    request = Request({"type": "http", "headers": [], "method": "POST", "path": "/"}, late.receive)
    bodies = JsonBodies(20, 20)
    with pytest.raises(errors.BodyTimeout):
        await read(bodies, request)
    assert late.late
    assert (await read(bodies, request_of(b'{"name": "xxxxx"}'))).name == "xxxxx"
