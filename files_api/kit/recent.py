"""Answers that are believed for a while."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Recent(Generic[Answer]):
    """Answers that hold for some seconds, at most so many; what was unused longest goes first."""

    def __init__(self, most: int) -> None:
        """Take how many answers are held."""
        self._most = most
        self._held: OrderedDict[str, tuple[float, float, Answer]] = OrderedDict()

    def get(self, key: str, now: float) -> Answer | None:
        """Return an answer that holds now."""
        since, until, answer = self._held.get(key, (0.0, 0.0, None))
        # A clock that was set back must not make an answer hold longer.
        if answer is None or not since <= now < until:
            self._held.pop(key, None)
            return None
        self._held.move_to_end(key)
        return answer

    def put(self, key: str, since: float, until: float, answer: Answer) -> None:
        """Hold an answer from one moment to another, in seconds of any clock."""
        self._held[key] = (since, until, answer)
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
