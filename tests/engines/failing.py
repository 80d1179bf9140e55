"""Engines that fail on purpose; chosen by pipeline tests."""

from __future__ import annotations

import asyncio

from files_api.kit.errors import PageFailed
from ocr_api.engines import Engine, PageTask, Question, Supplies
from ocr_api.processes import Pool
from ocr_api.result import Reading, Usage


def no_pool(entry: str, memory_bytes: int) -> Pool:
    """Refuse to make a pool: these engines need none."""
    raise AssertionError(entry, memory_bytes)


class _Counting(Engine):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(Supplies(no_pool))
        self.seen: list[int] = []
        self.finished: list[int] = []
        self.running = 0
        self.most_at_once = 0

    async def read(self, task: PageTask) -> Reading:
        index = task.page.index
        self.seen.append(index)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            reading = await self.answer(index)
        finally:
            self.running -= 1
        self.finished.append(index)
        return reading

    async def answer(self, index: int) -> Reading:
        return Reading(f"page {index}", usage=Usage(1, 2))


class Backwards(_Counting):
    """Answers a group of pages only when the last of them was asked for, last one first."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self._group = group
        self._done: dict[int, asyncio.Event] = {}

    async def answer(self, index: int) -> Reading:
        done = self._done.setdefault(index, asyncio.Event())
        if (index + 1) % self._group:
            await self._done.setdefault(index + 1, asyncio.Event()).wait()
        done.set()
        return await super().answer(index)


class Refusing(_Counting):
    """Raises on certain pages."""

    def __init__(self, pages: set[int], error: type[Exception]) -> None:
        super().__init__()
        self._pages = pages
        self._error = error

    async def answer(self, index: int) -> Reading:
        if index in self._pages:
            raise self._error(f"page {index}")
        return await super().answer(index)


class Hanging(_Counting):
    """Answers some pages and then never again."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after
        self.hangs = asyncio.Event()

    async def answer(self, index: int) -> Reading:
        if index >= self._after:
            if len(self.finished) == self._after:
                self.hangs.set()
            await asyncio.Event().wait()
        return await super().answer(index)


class Turning(_Counting):
    """Reads every page turned clockwise by a quarter."""

    async def answer(self, index: int) -> Reading:
        return Reading(f"page {index}", turned=90)


class Mumbling(_Counting):
    """Reads nothing on the first page."""

    async def answer(self, index: int) -> Reading:
        return Reading("") if index == 0 else await super().answer(index)


class Truncating(_Counting):
    """Stops at its length limit."""

    async def answer(self, index: int) -> Reading:
        return Reading(f"cut {index}", finish_reason="length")


class Scripted(Engine):
    """Gives the readings it was made with, one per call, the last of them for ever."""

    def __init__(self, *readings: Reading | Exception) -> None:
        super().__init__(Supplies(no_pool))
        self._readings = list(readings)
        self.tasks: list[PageTask] = []
        self.questions: list[Question] = []
        self.asked = asyncio.Event()

    async def read(self, task: PageTask) -> Reading:
        self.tasks.append(task)
        self.asked.set()
        return self._next()

    async def ask(self, question: Question) -> Reading:
        self.questions.append(question)
        return self._next()

    def _next(self) -> Reading:
        reading = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        if isinstance(reading, Exception):
            raise reading
        return reading


class Sinking(_Counting):
    """Fails over each page, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def answer(self, index: int) -> Reading:
        self.asked.release()
        await self.gate.acquire()
        raise PageFailed(f"page {index}")
