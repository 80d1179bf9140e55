"""The time that a request's body may take: for its next piece, and for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from files_api.kit import errors
from files_api.kit.patience import FAIR_RATE, FIRST_SECONDS, Patience, PatientBody


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


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 1_000_000)), max_size=60))
def test_the_waiting_is_paid_for_by_what_came(pieces: list[tuple[float, int]]) -> None:
    """R17: whatever the client does, we wait no longer than its bytes and the patience pay for."""
    patience = Patience(30, 500)
    waited, came = 0.0, 0
    for pause, size in pieces:
        assert 0 <= patience.left <= 30
        wait = min(pause, patience.left)
        waited += wait
        assert waited <= 30 + came / 500 + 1e-6
        assert waited <= FIRST_SECONDS + came / FAIR_RATE + 1e-6
        if pause > patience.left:
            break
        patience.note(wait, size)
        came += size


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.floats(FAIR_RATE, 10 * FAIR_RATE),
    st.lists(st.floats(0, 30), min_size=1, max_size=50),
)
def test_who_sends_at_the_fair_rate_is_never_cut(rate: float, pauses: list[float]) -> None:
    """However the pieces lie, within the pause that is allowed, and however long it takes."""
    patience, waited, came = Patience(30), 0.0, 0
    for pause in pauses * 20:
        assert pause <= patience.left
        waited += pause
        size = -int(-rate * waited // 1) - came
        patience.note(pause, size)
        came += size


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.floats(0, 0.99),
    st.lists(st.floats(0.1, 30), min_size=1, max_size=20),
)
def test_who_sends_less_is_cut(share: float, pauses: list[float]) -> None:
    """R17: within a minute, and what the bytes of the time before pay for; and the last pause."""
    patience, waited, came = Patience(30), 0.0, 0
    bound = FIRST_SECONDS / (1 - share)
    for pause in (pause for again in repeat(pauses) for pause in again):
        if pause > patience.left:
            break
        waited += pause
        assert waited <= bound + 1e-6
        size = int(share * FAIR_RATE * waited) - came
        patience.note(pause, size)
        came += size


class Skipping(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer: nobody waits."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        loop: Any = self
        if not loop._ready and loop._scheduled:
            self.now = max(self.now, loop._scheduled[0]._when)
        loop._clock_resolution = 1e-6
        super()._run_once()  # type: ignore[misc]


def drip(rate: int, seconds: int) -> tuple[int, float]:
    """Send a body at a rate, once a second; return the bytes that came, and the time it took."""

    async def main() -> tuple[int, float]:
        pieces: Iterator[bytes] = repeat(b"x" * rate, seconds)

        async def receive() -> Message:
            await asyncio.sleep(1)
            piece = next(pieces, None)
            return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

        body, came, more = PatientBody(receive, 30), 0, True
        try:
            while more:
                message = await body.receive()
                came, more = came + len(message["body"]), message["more_body"]
        except errors.BodyTimeout:
            assert body.late
        return came, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=Skipping) as runner:
        return runner.run(main())


def test_a_steady_client_comes_through() -> None:
    """Ten megabytes at 10 kB/s, which take more than a quarter of an hour."""
    came, took = drip(10_000, 1000)
    assert came == 10_000_000
    assert took == pytest.approx(1001)


@pytest.mark.parametrize(
    ("rate", "most"), [(1, 31), (499, 65), (600, 66), (4096, 121), (7000, 409)]
)
def test_a_trickle_ends(rate: int, most: float) -> None:
    """R17: sixty-four trickled uploads must not keep everybody out for days."""
    came, took = drip(rate, 1_000_000)
    assert came < rate * most
    assert most - 3 < took <= most
    bound = max(FIRST_SECONDS, 30) / (1 - rate / FAIR_RATE)
    assert took <= bound + 1e-3


def test_a_longer_pause_that_the_settings_allow_is_allowed() -> None:
    patience = Patience(100)
    assert patience.left == 100
