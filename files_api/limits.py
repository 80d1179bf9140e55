"""How much an organisation may ask for in a minute, and how many uploads run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from files_api.accounts import Principal


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


class Limits:
    """Counts what each organisation asks for, in this process."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = monotonic) -> None:
        self._rates = rates
        self._clock = clock

    def take_request(self, principal: Principal) -> None:
        """Count a request.

        Raises:
            RateLimited: the organisation sent too many.
        """

    def take_pages(self, principal: Principal, pages: int) -> None:
        """Count pages that are about to be read.

        Raises:
            RateLimited: the organisation had too many read.
        """

    def take_bytes(self, principal: Principal, size: int) -> None:
        """Count bytes that came; call it as they come.

        Raises:
            RateLimited: the organisation sent too many.
        """

    @contextmanager
    def uploading(self, principal: Principal) -> Iterator[None]:
        """Count an upload while the block runs.

        Raises:
            RateLimited: the organisation has too many running.
            Overloaded: all organisations together have too many running.
        """
        yield

    def headers(self, principal: Principal) -> dict[str, str]:
        """Return OpenAI's ``x-ratelimit-*`` headers for the limits that there are."""
        return {}
