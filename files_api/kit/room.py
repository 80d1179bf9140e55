"""Room for bytes that requests hold: so many of all together, and at most half of one owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from files_api.kit import metrics
from files_api.kit.errors import Overloaded, RateLimited


class Room:
    """Counts what is held, in any thread, and refuses what is too much."""

    def __init__(
        self,
        kind: str,
        total: int,
        least: int,
        *,
        refusal: str,
        seconds: float = 1.0,
        free: int = 0,
    ) -> None:
        """Begin with nothing held.

        Args:
            kind: what metrics call an owner's refusal; ``all_`` before it is everybody's.
            total: most bytes of all owners together.
            least: an owner may always hold so many, so that one thing of full length gets in.
            refusal: what an owner is told that holds too much: a sentence.
            seconds: after which another try makes sense.
            free: bytes of each request that do not count, so that large things keep no small ones
                out.
        """
        self.free = free
        self._seconds = seconds
        self._kind = kind
        self._total = max(total, least)
        self._share = max(least, total // 2)
        self._refusal = refusal
        self._held: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def held(self) -> int:
        """Bytes held now, by all."""
        return self._held.total()

    @contextmanager
    def hold(self, owner: str) -> Iterator[Hold]:
        """Give what one request holds; all of it is let go of when the block ends."""
        hold = Hold(self, owner)
        try:
            yield hold
        finally:
            hold.release()

    def add(self, owner: str, size: int) -> None:
        """Count more bytes of an owner; see `Hold.take`."""
        with self._lock:
            if self._held[owner] + size > self._share:
                metrics.rate_limited(self._kind)
                raise RateLimited(self._refusal, seconds=self._seconds)
            if self._held.total() + size > self._total:
                metrics.rate_limited(f"all_{self._kind}")
                raise Overloaded(seconds=self._seconds)
            self._held[owner] += size

    def subtract(self, owner: str, size: int) -> None:
        """Count bytes of an owner no more."""
        with self._lock:
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]


class Hold:
    """What one request holds of a room."""

    def __init__(self, room: Room, owner: str) -> None:
        """Hold nothing yet. The owner is the id of an organisation."""
        self._room = room
        self._owner = owner
        self._size = 0
        self._is_over = False
        self._lock = Lock()

    def take(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            RateLimited: the owner would hold more than its share.
            Overloaded: all owners together would hold too much.
            ValueError: everything was let go of before, as a thread finds that nobody waits for.
        """
        with self._lock:
            if self._is_over:
                raise ValueError("what was held was let go of")
            counted = self._counted(self._size + size) - self._counted(self._size)
            if counted:
                self._room.add(self._owner, counted)
            self._size += size

    def release(self) -> None:
        """Let go of everything, for good; a second time does nothing."""
        with self._lock:
            counted, self._size = self._counted(self._size), 0
            self._is_over = True
            if counted:
                self._room.subtract(self._owner, counted)

    def _counted(self, size: int) -> int:
        return max(0, size - self._room.free)
