"""Room for bytes: what one owner holds, what all hold, and that it always comes back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from files_api.kit.errors import Overloaded, RateLimited
from files_api.kit.room import Room


def room(total: int = 100, least: int = 10) -> Room:
    return Room("things", total, least, refusal="Too many things.")


def test_one_owner_has_half_and_all_have_the_whole() -> None:
    found = room()
    with ExitStack() as stack:
        one, two, three = (stack.enter_context(found.hold(name)) for name in ("1", "2", "3"))
        one.take(30)
        one.take(20)
        with pytest.raises(RateLimited, match=r"^Too many things\.$"):
            one.take(1)
        two.take(50)
        with pytest.raises(Overloaded):
            three.take(1)
        assert found.held == 100
        two.release()
        two.release()
        three.take(50)
    assert found.held == 0


def test_requests_of_one_owner_count_together() -> None:
    found = room()
    with found.hold("1") as first, found.hold("1") as second:
        first.take(30)
        with pytest.raises(RateLimited):
            second.take(21)
        second.take(20)
        first.release()
        second.take(30)
    assert found.held == 0


def test_one_thing_of_full_length_always_gets_in() -> None:
    found = room(total=10, least=80)
    with found.hold("1") as hold:
        hold.take(80)
        with pytest.raises(RateLimited):
            hold.take(1)
    assert found.held == 0


def test_what_is_refused_holds_nothing() -> None:
    found = room()
    with found.hold("1") as hold:
        hold.take(20)
        with pytest.raises(RateLimited):
            hold.take(40)
        assert found.held == 20
    assert found.held == 0


def test_what_is_let_go_of_takes_no_more() -> None:
    """A thread whose caller was cancelled goes on, and nobody would let go of what it takes."""
    found = room()
    with found.hold("1") as hold:
        hold.take(20)
    with pytest.raises(ValueError, match="was let go of"):
        hold.take(20)
    assert found.held == 0


def test_the_first_bytes_of_each_may_be_free() -> None:
    found = Room("things", 100, 10, refusal="Too many.", seconds=30, free=8)
    with found.hold("1") as large, found.hold("1") as small:
        large.take(5)
        assert found.held == 0
        large.take(53)
        assert found.held == 50
        small.take(8)
        with pytest.raises(RateLimited) as caught:
            small.take(1)
        assert caught.value.headers() == {"Retry-After": "30"}
        with found.hold("2") as other, found.hold("3") as third:
            other.take(58)
            with pytest.raises(Overloaded) as full:
                third.take(9)
            assert full.value.headers() == {"Retry-After": "30"}
    assert found.held == 0


def test_threads_lose_no_count() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        count_in_threads()
    finally:
        sys.setswitchinterval(before)


def count_in_threads() -> None:
    found = room(total=1 << 40, least=1 << 40)

    def work(owner: str) -> None:
        for _ in range(2000):
            with found.hold(owner) as hold:
                hold.take(3)
                hold.take(4)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, ["1", "2"] * 8))
    assert found.held == 0
