"""Bodies under bounds: one JSON body, its values, all at once; and the time that one may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Message

from files_api.kit import bodies as module
from files_api.kit import errors
from files_api.kit.bodies import ClientGoneError, JsonBodies
from files_api.kit.patience import Patience, PatientBody


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


async def test_what_follows_a_body_may_take_for_ever() -> None:
    """The hang-up is waited for as long as the work takes."""
    messages: asyncio.Queue[Message] = asyncio.Queue()
    body = PatientBody(messages.get, 0.01)
    messages.put_nowait({"type": "http.request", "body": b"x"})
    assert (await body.receive())["body"] == b"x"
    waiting = asyncio.create_task(body.receive())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    messages.put_nowait({"type": "http.disconnect"})
    assert (await waiting)["type"] == "http.disconnect"
    assert not body.late


async def test_a_late_body_stays_late() -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()
    body = PatientBody(messages.get, 0.01)
    for _ in range(2):
        with pytest.raises(errors.BodyTimeout):
            await body.receive()
        messages.put_nowait({"type": "http.request", "body": b"x"})


def test_a_pause_as_long_as_the_patience_and_no_longer() -> None:
    patience = Patience(30, 500)
    patience.note(29, 14_500)  # a pause, and what makes up for it
    assert patience.left == 30
    patience.note(0, 10**9)
    assert patience.left == 30  # a large body earns no hours


@pytest.mark.parametrize("pause", [0.5, 1, 10, 29])
def test_a_drip_ends_at_the_patience(pause: float) -> None:
    """R17: a byte now and then is no body."""
    patience, waited = Patience(30, 500), 0.0
    while pause <= patience.left:
        patience.note(pause, 1)
        waited += pause
    assert waited <= 30 * 1.01


def test_a_body_at_the_least_rate_comes_through() -> None:
    patience = Patience(30, 500)
    for _ in range(10_000):
        assert patience.left >= 2
        patience.note(2, 1000)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 100_000)), max_size=60))
def test_the_whole_body_comes_at_the_least_rate(pieces: list[tuple[float, int]]) -> None:
    """R17: whatever the client does, we wait no longer than its bytes and the patience pay for."""
    patience = Patience(30, 500)
    waited, came = 0.0, 0
    for pause, size in pieces:
        assert 0 <= patience.left <= 30
        wait = min(pause, patience.left)
        waited += wait
        assert waited <= 30 + came / 500 + 1e-6
        if pause > patience.left:
            break
        patience.note(wait, size)
        came += size
