"""How many pages a server is given at once: what its card says, or less where that is too much.

A server that refuses says itself how much it takes: what it has accepted and not answered. So the
limit follows that number down, at once, and creeps up again; only beyond the level that was too
much last time it grows slowly. A few refusals out of many (a proxy's, another client's) change
nothing.
"""

from __future__ import annotations

from collections import deque

REFUSED = 0.1
"""Share of refused answers beyond which the limit is too high."""
_FEWEST = 64
"""Fewest answers that a share is told by: with 3 % refused at random, 10 % are seldom seen."""
_STEP = 0.9
"""What one refusal or timeout leaves of the limit, at least."""
_GROWTH = 0.1
"""Of the limit, per second, where it is far from what was too much."""
_LONGEST_STEP = 5.0  # seconds of growth at once
_NEAR = 0.1
"""Of what was too much: so near to it the limit only creeps."""
_CREEP = 0.5
"""Of a page, each time that the server has answered as many as it is given at once."""
_GIVEN_UP = 0.97
"""What is kept of what the server takes: of several processes at one server, those that hold much
give up more than those that hold little, and in the end all hold the same."""
_READINGS = 5
"""Of the server's load, one a second, that must agree: a burst of pages waits for a moment in any
server, until it has prepared their pictures."""
_QUEUE, _QUEUE_SHARE = 2, 10
"""A queue of so many, or of one in ten running, keeps a server busy and hurts nobody."""
_RECENT = 0.1
"""Weight of the newest answer in the mean time of one."""


class Limit:
    """The adaptive limit of one server."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._level = float(self._most)
        self._too_much: float | None = None
        self._refused = 0.0
        self._grown: float | None = None
        self._waiting: deque[int] = deque(maxlen=_READINGS)
        self.seconds: float | None = None
        """Mean time of an answer, of late; None before the first."""
        self.newest = 0.0
        """That of the last one."""

    @property
    def value(self) -> int:
        """The most requests at once; at least one."""
        return max(1, int(self._level + 1e-9))

    def answered(self, seconds: float, now: float, *, full: bool) -> None:
        """Count an answer.

        Args:
            seconds: how long it took.
            now: the clock's time.
            full: no further request was allowed meanwhile; else nothing says that more fit.
        """
        self.newest = seconds
        self.seconds = seconds if self.seconds is None else _mean(self.seconds, seconds, _RECENT)
        self._refused = _mean(self._refused, 0.0, self._weight)
        passed = 0.0 if self._grown is None else min(now - self._grown, _LONGEST_STEP)
        self._grown = now
        if full:
            near = self._is_near()
            slow = (_CREEP if near else 1.0) / self._level
            fast = 0.0 if near else _GROWTH * self._level * passed
            self._level = min(self._most, self._level + max(slow, fast))

    def refused(self, taken: int) -> None:
        """Count a refusal, while the server held so many other requests of ours."""
        self._refused = _mean(self._refused, 1.0, self._weight)
        if self._refused > REFUSED:
            self._too_much = max(float(taken), 1.0)
            self._lower(max(taken * _GIVEN_UP, min(self._level * _STEP, self._level - 1)))

    def timed_out(self) -> None:
        """Count a page that took longer than its card allows."""
        self._too_much = self._level
        self._lower(self._level * _STEP)

    def loaded(self, running: int, waiting: int, ours: int) -> None:
        """Take what the server says about its work, once a second.

        Where more waits there than is good, and has for a while, ours is cut by our share of it:
        several processes may use the server.
        """
        bound = max(_QUEUE, running // _QUEUE_SHARE)
        self._waiting.append(waiting)
        least = min(self._waiting)
        falling = waiting < self._waiting[0]
        if len(self._waiting) < _READINGS or least <= bound or falling or not ours:
            return
        kept = ours * (running + waiting - (least - bound)) / (running + waiting)
        self._too_much = kept
        self._lower(kept)
        self._waiting.clear()

    @property
    def _weight(self) -> float:
        return 1 / max(_FEWEST, self._level)

    def _is_near(self) -> bool:
        """Tell whether the limit is about where it was too much."""
        known = self._too_much
        return known is not None and abs(self._level - known) <= 1 + _NEAR * known

    def _lower(self, level: float) -> None:
        self._level = max(1.0, min(self._level, level))


def _mean(old: float, new: float, weight: float) -> float:
    return old + weight * (new - old)
