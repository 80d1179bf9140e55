"""Which span a question about usage means, cut into days or hours, and the tokens of its pages."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from files_api.kit.errors import ValidationFailed
from ocr_api.usage.period import DAY, Period, moment, period_of, resumed, token_of

HOUR = 3600
NOON = int(datetime(2026, 11, 22, 12, 30, tzinfo=UTC).timestamp())
TODAY = NOON // DAY * DAY


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (str(NOON), NOON),
        ("2026-11-22", TODAY),
        ("2026-11-22T12:30", NOON),
        ("2026-11-22 12:30:00", NOON),
        ("2026-11-22T12:30:00Z", NOON),
        ("2026-11-22T14:30:00+02:00", NOON),
        ("2026-11-22T12:29:59.25Z", NOON),
        ("2024-02-29", int(datetime(2024, 2, 29, tzinfo=UTC).timestamp())),
        ("2100-01-01", 4_102_444_800),
    ],
)
def test_times(text: str, meant: int) -> None:
    assert moment(text) == meant


def test_times_are_utc_wherever_the_server_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert moment("2026-11-22") == TODAY
        assert moment("2026-11-22T12:30") == NOON
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "now", "yesterday", "-1", "1e9", "1700000000.5", "0x10", "NaN"),
        *("20261122", "1700000000000", "99999999999999999999", "0"),  # no seconds of our time
        *("2026-11-31", "2026-13-01", "2025-02-29", "2026-11-22T25:00", "2026-11-22T12:30 02:00"),
        *("2026-W47", "2026-11", "22.11.2026", "11/22/2026", "2026-11-22T12", "1999-12-31"),
        *("2100-01-01T00:00:01", "9999-12-31T23:59:59-14:00", "٢٠٢٦-١١-٢٢", "²"),
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        moment(text)


def test_by_default_thirty_days_of_which_today_is_the_last() -> None:
    assert period_of(None, None, DAY, NOON) == Period(TODAY - 29 * DAY, TODAY + DAY, DAY)
    assert period_of(None, None, HOUR, NOON) == Period(TODAY - 29 * DAY, NOON + HOUR // 2, HOUR)
    assert period_of(None, TODAY, DAY, NOON) == Period(TODAY - 30 * DAY, TODAY, DAY)
    assert period_of(NOON - 5, None, DAY, NOON) == Period(NOON - 5, TODAY + DAY, DAY)
    midnight = period_of(None, None, DAY, TODAY)
    assert midnight == Period(TODAY - 29 * DAY, TODAY + DAY, DAY)


@pytest.mark.parametrize(
    ("start", "end"),
    [(NOON, NOON), (NOON + 1, NOON), (NOON + 2 * DAY, None), (NOON - 3660 * DAY - 1, NOON)],
)
def test_spans_that_cannot_be(start: int, end: int | None) -> None:
    with pytest.raises(ValidationFailed) as caught:
        period_of(start, end, DAY, NOON)
    assert caught.value.param == "start_time"
    assert caught.value.details()[0]["loc"] == ["query", "start_time"]


def test_ten_years_at_most() -> None:
    assert period_of(NOON - 3660 * DAY, NOON, DAY, NOON).end == NOON


def test_the_first_and_last_bucket_may_be_shorter() -> None:
    span = Period(NOON - DAY, NOON, DAY)
    assert list(span.buckets(span.edge(9))) == [(NOON - DAY, TODAY), (TODAY, NOON)]
    assert list(span.buckets(span.edge(1))) == [(NOON - DAY, TODAY)]
    inside = Period(NOON, NOON + 1, DAY)
    assert list(inside.buckets(inside.edge(1))) == [(NOON, NOON + 1)]
    hours = Period(TODAY, TODAY + 2 * HOUR, HOUR)
    assert [end - start for start, end in hours.buckets(hours.end)] == [HOUR, HOUR]


def test_a_token_leads_to_the_rest_of_its_span() -> None:
    span = Period(NOON - 9 * DAY, NOON, DAY)
    token = token_of(span, TODAY - 2 * DAY, "0123abcd")
    rest = Period(TODAY - 2 * DAY, NOON, DAY)
    for start, end in ((None, None), (span.start, span.end), (span.start, None)):
        assert resumed(token, start, end, DAY, "0123abcd") == rest


@pytest.mark.parametrize(
    ("token", "start", "end", "width"),
    [
        ("", None, None, DAY),
        ("x", None, None, DAY),
        (f"{TODAY}-{NOON}-0123abc", None, None, DAY),
        (f"{TODAY}-{NOON}-0123abcd0", None, None, DAY),
        (f"{TODAY}-{NOON}-ffffffff", None, None, DAY),
        (f"{NOON}-{NOON + 1}-0123abcd", None, None, DAY),
        (f"{TODAY}-{TODAY}-0123abcd", None, None, DAY),
        (f"{TODAY}-{NOON}-0123abcd", TODAY, None, DAY),
        (f"{TODAY}-{NOON}-0123abcd", None, NOON + 1, DAY),
        (f"{TODAY}-9999999999-0123abcd", None, None, DAY),
        (f"{TODAY}-{TODAY + 3661 * DAY}-0123abcd", None, None, DAY),
    ],
)
def test_tokens_of_other_questions(
    token: str, start: int | None, end: int | None, width: int
) -> None:
    with pytest.raises(ValidationFailed):
        resumed(token, start, end, width, "0123abcd")
