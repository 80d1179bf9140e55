"""What this process takes on: open requests and pages, of each organisation and of all together.

Why here and not at the first page: whoever cannot be served soon is told at once, with the time
after which another try makes sense, and costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from files_api.kit import metrics
from files_api.kit.errors import Overloaded, RateLimited
from ocr_api import meters
from ocr_api.scheduler.order import Share
from ocr_api.scheduler.target import Target

_UNKNOWN = 5.0
"""Seconds until another try, where no page was done yet."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most of everything that one process takes on."""

    requests: int = 1000
    """Requests open at a time."""
    org_requests: int = 500
    """The same of one organisation."""
    pages: int = 50_000
    """Pages taken and not done."""
    org_pages: int = 20_000
    """The same of one organisation."""
    ahead: int = 8
    """Pages of a target that may be drawn, or wait drawn, beyond what its servers take at once."""


class Admission:
    """Counts what is open and refuses what is too much."""

    def __init__(self, bounds: Bounds, targets: Callable[[], Collection[Target]]) -> None:
        self._bounds = bounds
        self._targets = targets
        self._requests: Counter[str] = Counter()
        self._pages: Counter[str] = Counter()
        self._all_requests = 0
        self._all_pages = 0

    def check(self, share: Share) -> None:
        """Refuse where one more request is too much.

        Raises:
            RateLimited: the organisation has all that it may have open, or waiting.
            Overloaded: all organisations together have.
        """
        bounds, org = self._bounds, share.org
        if self._requests[org] >= bounds.org_requests:
            raise self._limited(org, "org_requests", f"{bounds.org_requests} OCR requests open")
        self._check_org_pages(org)
        if self._all_requests >= bounds.requests:
            raise self._overloaded("all_requests")
        self._check_all_pages()

    def check_pages(self, share: Share) -> None:
        """Refuse where one more document is too much; raises as `check` does."""
        self._check_org_pages(share.org)
        self._check_all_pages()

    @contextmanager
    def request(self, share: Share) -> Iterator[None]:
        """Count a request while the block runs; raises as `check` does."""
        self.check(share)
        self._requests[share.org] += 1
        self._all_requests += 1
        try:
            yield
        finally:
            _subtract(self._requests, share.org, 1)
            self._all_requests -= 1

    def add(self, target: Target, org: str, pages: int) -> None:
        """Count pages that are to be read at a target."""
        target.pages[org] += pages
        self._pages[org] += pages
        self._all_pages += pages

    def subtract(self, target: Target, org: str, pages: int) -> None:
        """Count pages that are done, or never will be."""
        _subtract(target.pages, org, pages)
        _subtract(self._pages, org, pages)
        self._all_pages -= pages

    def _check_org_pages(self, org: str) -> None:
        most = self._bounds.org_pages
        if self._pages[org] >= most:
            raise self._limited(org, "org_pages", f"{most} pages waiting")

    def _check_all_pages(self) -> None:
        if self._all_pages >= self._bounds.pages:
            raise self._overloaded("all_pages")

    def _limited(self, org: str, why: str, what: str) -> RateLimited:
        _count(why)
        involved = [target for target in self._targets() if target.pages[org]]
        return RateLimited(
            f"The organisation has {what}, the most at the same time; try again later.",
            seconds=_seconds(involved, sum(target.pages[org] for target in involved)),
        )

    def _overloaded(self, why: str) -> Overloaded:
        _count(why)
        involved = [target for target in self._targets() if target.pages]
        return Overloaded(seconds=_seconds(involved, self._all_pages))


def _seconds(targets: Collection[Target], pages: int) -> float:
    """Return how long so many pages take at the pace of these targets."""
    rate = sum(target.pace.rate() or 0.0 for target in targets)
    return pages / rate if pages and rate else _UNKNOWN


def _subtract(counts: Counter[str], org: str, amount: int) -> None:
    counts[org] -= amount
    if counts[org] <= 0:
        del counts[org]


def _count(why: str) -> None:
    metrics.rate_limited(why)
    meters.admission_refused(why)
