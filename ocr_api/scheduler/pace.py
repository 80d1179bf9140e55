"""How fast pages are done, measured while there is something to do."""

from __future__ import annotations

import math

_MEMORY = 20.0
"""Seconds of work after which what was seen counts 1/e."""


class Pace:
    """Pages per second of work, of late. Pauses without work neither count nor are forgotten."""

    def __init__(self) -> None:
        self._pages = 0.0
        self._seconds = 0.0
        self._at: float | None = None

    def goes_on(self, now: float, *, busy: bool) -> None:
        """Take that the time until now was worked through; ``busy`` tells whether it goes on."""
        if self._at is not None and now > self._at:
            kept = math.exp(-(now - self._at) / _MEMORY)
            self._pages *= kept
            self._seconds = self._seconds * kept + _MEMORY * (1 - kept)
        self._at = now if busy else None

    def done(self) -> None:
        """Count a page; call `goes_on` as well."""
        self._pages += 1

    def rate(self) -> float | None:
        """Return pages per second; None before the first page."""
        return self._pages / self._seconds if self._pages and self._seconds else None
