"""What an organisation may ask for: buckets, uploads at once, OpenAI's headers."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files_api.accounts import OrgLimits, Principal
from files_api.kit import errors
from files_api.kit.bodies import ClientGoneError
from files_api.limits import Bucket, Limits, Rates, duration
from tests.unit.files_api.test_metrics import value

ONE, TWO = Principal("one"), Principal("two")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(limits: Limits, who: Principal, most: int = 1000) -> int:
    """Return how many requests go through before one is refused."""
    for count in range(most):
        try:
            limits.take_request(who)
        except errors.RateLimited:
            return count
    return most


def refused(limits: Limits, who: Principal, pages: int = 1) -> int:
    """Return the Retry-After of pages that must be refused."""
    with pytest.raises(errors.RateLimited) as caught:
        limits.take_pages(who, pages)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


# --- buckets --------------------------------------------------------------------------------------


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.integers(1, 5000),
    st.lists(
        st.tuples(
            st.one_of(st.floats(0, 0.1), st.floats(0, 200)),
            st.one_of(st.just(1), st.integers(1, 20_000)),
        ),
        max_size=80,
    ),
)
def test_never_more_than_the_rate_and_one_minute_at_once(
    per_minute: int, asked: list[tuple[float, int]]
) -> None:
    """And what is above it is the last amount alone, which is paid back before the next."""
    clock = Clock()
    limits = Limits(Rates(pages_per_minute=per_minute), clock)
    admitted = []
    for pause, pages in asked:
        clock.now += pause
        try:
            limits.take_pages(ONE, pages)
        except errors.RateLimited:
            continue
        admitted.append(pages)
        allowed = per_minute + (clock.now - 1000) * per_minute / 60
        assert sum(admitted[:-1]) + 1 <= allowed + 1e-6
        if max(admitted) == 1:
            assert len(admitted) <= allowed + 1e-6


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 50_000), st.lists(st.floats(0, 50), max_size=30))
def test_a_bucket_fills_by_time_alone(per_minute: int, taken: int, pauses: list[float]) -> None:
    """However often it is looked at, it holds the same; and never more than a minute's worth."""
    bucket = Bucket(per_minute, per_minute, 0.0)
    assert bucket.take(taken) == 0
    now = 0.0
    for pause in pauses:
        now += pause
        bucket.fill(per_minute, now)
    exact = min(per_minute, per_minute - taken + sum(pauses) * per_minute / 60)
    assert bucket.level == pytest.approx(exact, abs=1e-6)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 20_000))
def test_who_waits_as_told_is_admitted_and_who_comes_earlier_is_not(
    per_minute: int, taken: int
) -> None:
    bucket = Bucket(per_minute, per_minute, 0.0)
    bucket.take(taken)
    wait = bucket.take(1)
    assert (wait > 0) == (taken >= per_minute)
    if wait:
        bucket.fill(per_minute, wait * 0.999)
        assert bucket.take(1) > 0
        bucket.fill(per_minute, wait)
        assert bucket.take(1) == 0


def test_requests_of_a_minute_and_then_one_each_second(clock: Clock) -> None:
    limits = Limits(Rates(requests_per_minute=60), clock)
    assert taken(limits, ONE) == 60
    clock.now += 0.99
    assert taken(limits, ONE) == 0
    clock.now += 0.01
    assert taken(limits, ONE) == 1
    clock.now += 30
    assert taken(limits, ONE) == 30
    clock.now += 3600
    assert taken(limits, ONE) == 60


def test_a_document_larger_than_the_limit_is_read_and_paid_for(clock: Clock) -> None:
    limits = Limits(Rates(pages_per_minute=100), clock)
    limits.take_pages(ONE, 99)
    limits.take_pages(ONE, 300)
    assert refused(limits, ONE) == 120  # 180 s in truth: OpenAI's clients wait no longer
    clock.now += 120
    assert refused(limits, ONE) == 60
    clock.now += 58.9
    assert refused(limits, ONE) == 2
    clock.now += 1.1
    limits.take_pages(ONE, 1)


def test_organisations_have_limits_of_their_own(clock: Clock) -> None:
    limits = Limits(Rates(requests_per_minute=3), clock)
    free = Principal("free", limits=OrgLimits(requests_per_minute=0))
    more = Principal("more", limits=OrgLimits(requests_per_minute=5, pages_per_minute=1))
    assert [taken(limits, who) for who in (ONE, TWO, free, more)] == [3, 3, 1000, 5]
    limits.take_pages(ONE, 10_000)
    limits.take_pages(more, 2)
    assert refused(limits, more) == 120


def test_a_limit_that_changes_holds_at_once(clock: Clock) -> None:
    limits = Limits(Rates(), clock)
    assert taken(limits, Principal("x", limits=OrgLimits(requests_per_minute=50)), 10) == 10
    assert taken(limits, Principal("x", limits=OrgLimits(requests_per_minute=4))) == 4
    clock.now += 60
    assert taken(limits, Principal("x", limits=OrgLimits(requests_per_minute=50))) == 50


def test_the_error_says_which_limit(clock: Clock) -> None:
    before = value("ocr_rate_limited_total", limit="pages")
    limits = Limits(Rates(pages_per_minute=2), clock)
    limits.take_pages(ONE, 2)
    with pytest.raises(errors.RateLimited, match="2 pages per minute") as caught:
        limits.take_pages(ONE, 1)
    assert (caught.value.status, caught.value.headers()) == (429, {"Retry-After": "30"})
    assert value("ocr_rate_limited_total", limit="pages") == before + 1


def test_idle_organisations_are_forgotten_and_debtors_are_not(clock: Clock) -> None:
    limits = Limits(Rates(requests_per_minute=60, pages_per_minute=10), clock)
    for number in range(5000):
        limits.take_request(Principal(str(number)))
        clock.now += 0.1
    assert len(limits._buckets) < 1300  # those of two minutes
    limits.take_pages(ONE, 50)
    clock.now += 239.9
    limits.take_request(TWO)
    assert {org for org, _ in limits._buckets} == {"one", "two"}
    assert refused(limits, ONE) == 7
    clock.now += 7
    limits.take_pages(ONE, 1)


# --- uploads --------------------------------------------------------------------------------------


def test_so_many_uploads_at_once(clock: Clock) -> None:
    limits = Limits(Rates(uploads=3, org_uploads=2), clock)
    with ExitStack() as stack:
        stack.enter_context(limits.uploading(ONE))
        with limits.uploading(ONE), pytest.raises(errors.RateLimited), limits.uploading(ONE):
            raise AssertionError
        stack.enter_context(limits.uploading(ONE))
        stack.enter_context(limits.uploading(TWO))
        for who in (TWO, Principal("three")):
            with pytest.raises(errors.Overloaded), limits.uploading(who):
                raise AssertionError
    assert not limits._uploads
    with limits.uploading(TWO):
        pass


def test_an_upload_may_be_larger_than_a_minute_holds_and_the_next_waits(clock: Clock) -> None:
    limits = Limits(Rates(bytes_per_minute=1000), clock)
    with limits.uploading(ONE):
        for _ in range(20):
            limits.take_bytes(ONE, 100)
    with pytest.raises(errors.RateLimited) as caught, limits.uploading(ONE):
        raise AssertionError
    assert caught.value.retry_after == 61
    with pytest.raises(errors.RateLimited):
        limits.take_document(ONE, 1)
    clock.now += 60.06
    with limits.uploading(ONE):
        pass
    limits.take_document(ONE, 5000)
    with pytest.raises(errors.RateLimited), limits.uploading(ONE):
        raise AssertionError
    with limits.uploading(TWO):
        pass


@pytest.mark.parametrize(
    ("error", "aborted"),
    [
        (ClientGoneError(), 1),
        (asyncio.CancelledError(), 1),
        (errors.BodyTimeout(), 1),
        (errors.TooLarge(), 0),
        (None, 0),
    ],
)
def test_uploads_that_end_early_are_counted(error: BaseException | None, aborted: int) -> None:
    limits = Limits(Rates())
    before = value("ocr_upload_aborted_total"), value("ocr_upload_bytes_total")
    try:
        with limits.uploading(ONE):
            limits.take_bytes(ONE, 123)
            if error:
                raise error
    except type(error or AssertionError()):
        pass
    assert value("ocr_upload_aborted_total") == before[0] + aborted
    assert value("ocr_upload_bytes_total") == before[1] + 123
    assert not limits._uploads


# --- headers --------------------------------------------------------------------------------------


def test_headers_of_the_limits_that_there_are(clock: Clock) -> None:
    assert Limits(Rates()).headers(ONE) == {}
    limits = Limits(Rates(requests_per_minute=60, bytes_per_minute=1000), clock)
    limits.take_request(ONE)
    limits.take_bytes(ONE, 2500)
    assert limits.headers(ONE) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-bytes": "1000",
        "x-ratelimit-remaining-bytes": "0",
        "x-ratelimit-reset-bytes": "2m30s",
    }


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(1, 500), st.lists(st.floats(0, 3), max_size=50))
def test_what_remains_is_what_can_be_taken(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    limits = Limits(Rates(requests_per_minute=per_minute), clock)
    for pause in pauses:
        clock.now += pause
        left = int(limits.headers(ONE)["x-ratelimit-remaining-requests"])
        try:
            limits.take_request(ONE)
        except errors.RateLimited:
            assert left == 0
        else:
            assert left >= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0115, "12ms"), (0.9991, "1s"), (1, "1s"), (44.2, "45s"), (60, "1m0s"),
        (90, "1m30s"), (359.5, "6m0s"), (7200, "2h0m0s"), (3725, "1h2m5s"),
    ],
)  # fmt: skip
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 100_000))
def test_a_duration_is_never_too_short(seconds: float) -> None:
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration(seconds))
    said = sum(int(number) * units[unit] for number, unit in parts)
    assert seconds <= said + 1e-9
    assert floor(said) <= seconds + 1
