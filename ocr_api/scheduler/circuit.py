"""Whether a server is asked at all: after three failures in a row it is looked at first.

Why a server is suspected before it is given up: one that answers the look is asked again at once.
If it keeps failing over pages although it answers looks, it is only passed over for the others.
"""

from __future__ import annotations

from typing import Literal

FAILURES = 3
"""In a row, before the server is suspected."""
PROBES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each look at a server that failed; the last for ever."""
_CONFIRMED = 3
"""Looks after which a server is really away (3 s): until then its pages may still come through."""
_LONGEST_DOUBT = 30.0

State = Literal["closed", "suspect", "open"]


class Circuit:
    """What is thought of one server; it knows no clock and is told the time."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.looks = 0
        """Looks in a row at which it was not well."""
        self.next_look = 0.0
        """When it is looked at again, in the clock's seconds; it means something while open."""
        self.why = ""
        """What the last of those looks found, in a sentence."""
        self.period = 0
        """Of being asked; what began in an earlier one says nothing about this one."""
        self._failures = 0
        self._doubt = 0.0
        self._doubted_until = 0.0

    @property
    def is_doubted(self) -> bool:
        """Tell whether it failed again and again though it says it is well."""
        return self._doubt > 0

    @property
    def is_gone(self) -> bool:
        """Tell whether nobody should wait for it any more."""
        return self.state == "open" and self.looks >= _CONFIRMED

    def is_shunned(self, now: float) -> bool:
        """Tell whether others are better asked now."""
        return self.is_doubted and now < self._doubted_until

    def answered(self, period: int) -> None:
        """Count an answer, good or bad: the server is there."""
        if period == self.period:
            self._failures = 0
            self._doubt = 0.0

    def failed(self, period: int) -> bool:
        """Count a failure; tell whether somebody must look at the server now."""
        if period != self.period or self.state != "closed":
            return False
        self._failures += 1
        if self._failures < FAILURES:
            return False
        self.state = "suspect"
        self.looks = 0
        return True

    def well(self, now: float) -> None:
        """Close it: the server says that it is well."""
        contradicts = self.state == "suspect"
        self._doubt = min(_LONGEST_DOUBT, max(1.0, 2 * self._doubt)) if contradicts else 0.0
        self._doubted_until = now + self._doubt
        self._failures = 0
        self.looks = 0
        self.period += 1
        self.state = "closed"

    def ill(self, next_look: float, why: str = "") -> None:
        """Open it, or keep it open: the server is not well."""
        self.looks += 1
        self.why = why
        self.next_look = next_look
        self.state = "open"
