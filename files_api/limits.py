"""How much an organisation may ask for in a minute, and how many uploads run at once.

Why in this process alone: a store that all processes share would stand in the way of every
request, and fail with it. With several processes an organisation gets the limits of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from time import monotonic
from typing import Literal

from files_api.accounts import Principal
from files_api.kit import errors, metrics

Kind = Literal["requests", "pages", "bytes"]
_KINDS: tuple[Kind, ...] = ("requests", "pages", "bytes")
_MINUTE = 60.0
_SECOND = 1000  # milliseconds
_WHOLE = 1 - 1e-9
"""One unit, less what floating point may lose while a bucket fills."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits where an organisation has none of its own; 0 is no limit."""

    requests_per_minute: int = 0
    pages_per_minute: int = 0
    bytes_per_minute: int = 0
    uploads: int = 64
    """At the same time, of all organisations."""
    org_uploads: int = 16
    """At the same time, of one organisation."""


@dataclass(slots=True)
class Bucket:
    """A token bucket that holds a minute's worth, full at first.

    Who finds one whole unit in it may take any number: the bucket goes below zero, and the next
    one waits until the debt is paid. So a document with more pages than the bucket holds can be
    read at all, and over time nobody gets more than the rate.
    """

    per_minute: int
    level: float
    at: float
    """When the level was right, in the clock's seconds."""

    def fill(self, per_minute: int, now: float) -> None:
        """Bring the level up to date, under the limit that holds now."""
        level = self.level + (now - self.at) * per_minute / _MINUTE
        self.per_minute, self.level, self.at = per_minute, min(level, per_minute), now

    def take(self, amount: int) -> float:
        """Take an amount and return 0, or take nothing and return the seconds to wait."""
        if self.level < _WHOLE:
            return self.seconds_to(1)
        self.level -= amount
        return 0.0

    def seconds_to(self, level: float) -> float:
        """Return the seconds until the bucket holds so much."""
        return max(0.0, (level - self.level) * _MINUTE / self.per_minute)


class Limits:
    """Counts what each organisation asks for, in this process."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = monotonic) -> None:
        self._rates = rates
        self._clock = clock
        self._buckets: dict[tuple[str, Kind], Bucket] = {}
        self._uploads: Counter[str] = Counter()
        self._tidied = clock()

    def take_request(self, principal: Principal) -> None:
        """Count a request.

        Raises:
            RateLimited: the organisation sent too many.
        """
        self._take(principal, "requests", 1)

    def take_pages(self, principal: Principal, pages: int) -> None:
        """Count pages that are about to be read.

        Raises:
            RateLimited: the organisation had too many read.
        """
        self._take(principal, "pages", pages)

    def take_document(self, principal: Principal, size: int) -> None:
        """Count the bytes of a document that came inside a request.

        Raises:
            RateLimited: the organisation sent too many bytes.
        """
        self._take(principal, "bytes", size)

    def take_bytes(self, principal: Principal, size: int) -> None:
        """Count bytes of an upload; call it as they come, inside `uploading`.

        It refuses nothing: `uploading` let the upload in, and a file that is larger than a
        minute's bytes must be possible. What is too much makes the next upload wait.
        """
        metrics.uploaded(size)
        if bucket := self._bucket(principal, "bytes"):
            bucket.level -= size

    @contextmanager
    def uploading(self, principal: Principal) -> Iterator[None]:
        """Count an upload while the block runs.

        Raises:
            RateLimited: the organisation has too many running, or sent too many bytes.
            Overloaded: all organisations together have too many running.
        """
        org = principal.org_id
        if self._uploads.total() >= self._rates.uploads:
            metrics.rate_limited("all_uploads")
            raise errors.Overloaded
        if self._uploads[org] >= self._rates.org_uploads:
            metrics.rate_limited("uploads")
            raise errors.RateLimited(
                f"The organisation has {self._rates.org_uploads} uploads running, the most at "
                "the same time; try again."
            )
        self._take(principal, "bytes", 0)
        self._uploads[org] += 1
        try:
            yield
        except errors.AppError as error:
            if isinstance(error, errors.BodyTimeout):
                metrics.upload_aborted()
            raise
        except BaseException:
            metrics.upload_aborted()
            raise
        finally:
            self._uploads[org] -= 1
            if not self._uploads[org]:
                del self._uploads[org]

    def headers(self, principal: Principal) -> dict[str, str]:
        """Return OpenAI's ``x-ratelimit-*`` headers for the limits that there are.

        As OpenAI documents them, ``reset`` is the time until nothing of the limit is used.
        """
        found = {}
        for kind in _KINDS:
            if bucket := self._bucket(principal, kind):
                left = max(0, floor(bucket.level + 1 - _WHOLE))
                found[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                found[f"x-ratelimit-remaining-{kind}"] = str(left)
                reset = bucket.seconds_to(bucket.per_minute)
                found[f"x-ratelimit-reset-{kind}"] = duration(reset)
        return found

    def _take(self, principal: Principal, kind: Kind, amount: int) -> None:
        bucket = self._bucket(principal, kind)
        if bucket and (seconds := bucket.take(amount)):
            metrics.rate_limited(kind)
            raise errors.RateLimited(
                f"The organisation has used up its {bucket.per_minute} {kind} per minute; "
                "try again later.",
                seconds=seconds,
            )

    def _bucket(self, principal: Principal, kind: Kind) -> Bucket | None:
        """Return the organisation's bucket, filled up to now; None where there is no limit."""
        per_minute = self._per_minute(principal, kind)
        if not per_minute:
            return None
        now = self._clock()
        if now - self._tidied >= _MINUTE:
            self._tidy(now)
        bucket = self._buckets.setdefault(
            (principal.org_id, kind), Bucket(per_minute, per_minute, now)
        )
        bucket.fill(per_minute, now)
        return bucket

    def _per_minute(self, principal: Principal, kind: Kind) -> int:
        name = f"{kind}_per_minute"
        own: int | None = getattr(principal.limits, name)
        default: int = getattr(self._rates, name)
        return default if own is None else own

    def _tidy(self, now: float) -> None:
        """Forget the buckets that are full: a new one would be the same."""
        self._tidied = now
        for key, bucket in list(self._buckets.items()):
            if now - bucket.at >= bucket.seconds_to(bucket.per_minute):
                del self._buckets[key]


def duration(seconds: float) -> str:
    """Return a time as OpenAI's headers write it: ``12ms``, ``45s``, ``1m30s``, ``2h0m0s``.

    It is rounded up, so that who waits so long does not come too early.
    """
    milliseconds = ceil(seconds * _SECOND)
    if milliseconds < _SECOND:
        return f"{milliseconds}ms"
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
