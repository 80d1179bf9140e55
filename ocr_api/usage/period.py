"""From when to when, in buckets of an hour or a day: what a question about usage spans. All UTC.

A page of the answer ends with a token that leads to the next one:

    NEXT-END-MARK   when the next page begins, when the whole span ends, what else was asked
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from typing import Final

from files_api.kit.errors import ValidationFailed

DAY: Final = 86_400
"""Seconds."""
WIDTHS: Final = {"1d": DAY, "1h": 3600}
"""Seconds of a bucket, by the names that OpenAI's usage API has for them."""
USUAL_DAYS: Final = 30
MOST_DAYS: Final = 3660
"""Ten years."""
EARLIEST: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp())
"""Why a bound: 20261122 is a date to people, and a day of 1970 in Unix seconds."""
LATEST: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""Milliseconds lie far behind it."""

_SECONDS: Final = re.compile(r"[0-9]{1,15}")
# Python reads also 2026-W47 and 20261122T10: too easily meant otherwise.
_ISO: Final = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_TOKEN: Final = re.compile(r"([0-9]{9,10})-([0-9]{9,10})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time, cut where days or hours begin: its first and last bucket may be shorter."""

    start: int
    """Unix seconds."""
    end: int
    """The first second behind it."""
    width: int
    """Seconds of a bucket."""

    def edge(self, buckets: int) -> int:
        """Return where so many buckets end."""
        return min(self.end, (self.start // self.width + buckets) * self.width)

    def buckets(self, until: int) -> Iterator[tuple[int, int]]:
        """Give the start and end of each bucket up to an edge, or to the span's end."""
        start = self.start
        while start < min(until, self.end):
            end = min((start // self.width + 1) * self.width, self.end)
            yield start, end
            start = end

    def behind(self, start: int) -> Period:
        """Return what is left of it from an edge on."""
        return replace(self, start=start)


def moment(text: str) -> int:
    """Return the Unix seconds that a text means; parts of a second count as the next one.

    Args:
        text: Unix seconds, or an ISO 8601 date or date and time; UTC unless it says otherwise.

    Raises:
        ValueError: it is neither, or not between the years 2000 and 2100.
    """
    if _SECONDS.fullmatch(text):
        found = int(text)
    elif _ISO.fullmatch(text):
        try:
            meant = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError(f"there is no such time: {error}") from None
        found = ceil((meant if meant.tzinfo else meant.replace(tzinfo=UTC)).timestamp())
    else:
        raise ValueError(
            "write Unix seconds, or a date as 2026-11-22, or a time as 2026-11-22T10:00:00Z "
            "(a + in an address is %2B)"
        )
    if not EARLIEST <= found <= LATEST:
        raise ValueError("the time lies between the years 2000 and 2100, in seconds if a number")
    return found


def period_of(start: int | None, end: int | None, width: int, now: float) -> Period:
    """Return the span that is asked for: by default 30 whole days, of which today is the last.

    Args:
        start: Unix seconds, or None: 30 days before the end.
        end: the first second behind it, or None: when the bucket of now ends.
        width: seconds of a bucket.
        now: Unix seconds.

    Raises:
        ValidationFailed: it is empty or too long.
    """
    if end is None:
        end = (int(now) // width + 1) * width
    if start is None:
        start = max(((end - 1) // DAY + 1 - USUAL_DAYS) * DAY, EARLIEST)
    if start >= end:
        raise wrong("start_time", "start_time must be before end_time, which is now by default.")
    if end - start > MOST_DAYS * DAY:
        raise wrong("start_time", f"At most {MOST_DAYS} days can be asked for at once.")
    return Period(start, end, width)


def token_of(period: Period, start: int, mark: str) -> str:
    """Return the token of the page that begins at an edge of a span.

    Args:
        period: the span.
        start: the edge.
        mark: 8 hexadecimal digits that stand for what else is asked.
    """
    return f"{start}-{period.end}-{mark}"


def resumed(token: str, start: int | None, end: int | None, width: int, mark: str) -> Period:
    """Return what a page's token leaves of the span that was asked for.

    Args:
        token: what the page before gave.
        start: what the request says besides, if anything; so do the next two.
        end: see ``start``.
        width: seconds of a bucket.
        mark: what else the request asks.

    Raises:
        ValidationFailed: it is no token, or that of another question.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise wrong("page", "This is not what next_page of a page before said.")
    first, last = int(found[1]), int(found[2])
    same = found[3] == mark and (start is None or start < first) and end in (None, last)
    if not same or first % width or not EARLIEST < first < last <= LATEST:
        raise wrong("page", "This page belongs to another question: repeat all that was asked.")
    return period_of(first, last, width, first)


def wrong(param: str, message: str) -> ValidationFailed:
    """Return the 422 for a parameter of the address."""
    item = {"loc": ["query", param], "msg": message, "type": "value_error"}
    return ValidationFailed(message, param=param, items=[item])
