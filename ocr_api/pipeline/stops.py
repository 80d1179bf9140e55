"""Ends a run from outside: its time is over, or its file was deleted.

Why no ``asyncio.timeout`` around the whole run: it cancels the task that entered it, and the pages
of a streamed answer may be taken by another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from files_api.kit.errors import AppError, DeadlineExceeded, FileNotFound


class Stop:
    """The end of one run; made when it begins."""

    def __init__(self, seconds: float) -> None:
        """Take the seconds that the run may take."""
        self._at = asyncio.get_running_loop().time() + seconds
        self._error: AppError = DeadlineExceeded(
            f"The request took longer than the {seconds:g} s it was given; pages that were read "
            "are kept for another try."
        )
        self._timers: set[asyncio.Timeout] = set()

    def now(self, error: AppError) -> None:
        """End the run with an error: whatever it awaits in `limit`, now or later, raises it."""
        self._error, self._at = error, asyncio.get_running_loop().time()
        for timer in self._timers:
            if not timer.expired():  # else its block is ending already
                timer.reschedule(self._at)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Let the block run until the end of the run; it must not yield to another task's code.

        Raises:
            AppError: the end came first.
        """
        timer = asyncio.timeout_at(self._at)
        try:
            async with timer:
                self._timers.add(timer)
                try:
                    yield
                finally:
                    self._timers.discard(timer)
        except TimeoutError:
            if timer.expired():
                raise self._error from None
            raise


class Stops:
    """The runs that read stored files, by file."""

    def __init__(self) -> None:
        self._by_file: dict[str, set[Stop]] = {}

    @contextmanager
    def reading(self, file_id: str | None, stop: Stop) -> Iterator[None]:
        """Have the run ended when its file goes, as long as the block runs."""
        if file_id is None:
            yield
            return
        self._by_file.setdefault(file_id, set()).add(stop)
        try:
            yield
        finally:
            self._by_file[file_id].discard(stop)
            if not self._by_file[file_id]:
                del self._by_file[file_id]

    def files(self) -> set[str]:
        """Return the files that are read now."""
        return {*self._by_file}

    def gone(self, file_id: str) -> None:
        """End every run that reads a file, since it was deleted or has expired."""
        for stop in self._by_file.get(file_id, ()):
            stop.now(FileNotFound("The file was deleted while it was read."))
