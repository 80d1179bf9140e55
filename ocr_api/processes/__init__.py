"""Supervised child processes: one task at a time each, frames over pipes, killed when they overrun.

Why: decoders abort (PDFium ends its process when memory runs out), loop, and may be taken over by
a hostile file. A child that dies costs one task; a ``ProcessPoolExecutor`` would break whole, and
unpickles what its children say. Here an answer is capped JSON plus bytes, and nothing else.

A handler is ``def handle(header: dict, payload: bytes) -> tuple[dict, bytes]``, named by
``package.module:function``; it raises `Refusal` for what it will not do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ocr_api.processes.child import DONE, FRAME, Answer, Refusal
from ocr_api.processes.link import Child, ChildDied, ChildTimedOut, PoolUnavailable, TaskRefused

__all__ = [
    "Answer",
    "ChildDied",
    "ChildTimedOut",
    "Limits",
    "Pool",
    "PoolUnavailable",
    "Refusal",
    "TaskRefused",
]

START_SECONDS = 120.0
"""Longest time a child may take to start and import its entry."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT")
# A page needs some buffers of 5 MB; without these, malloc gives them back to the kernel and
# faults them in again for every page (8 ms of 20).
_TUNING = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one child may use."""

    memory_bytes: int
    """Address space."""
    seconds: float
    """Wall-clock time of one task."""
    tasks: int = 5000
    """The child is replaced after so many."""


class Pool:
    """Up to ``size`` children that run one entry; started when needed, replaced when they die."""

    def __init__(self, entry: str, size: int, limits: Limits) -> None:
        """Start nothing. ``entry`` is the handler, as ``package.module:function``."""
        self._entry = entry
        self._size = max(1, size)
        self._limits = limits
        self._children: set[Child] = set()
        self._idle: list[Child] = []  # the longest idle first
        self._waiting: deque[asyncio.Future[Child | None]] = deque()
        self._closed = False

    async def call(
        self,
        header: Mapping[str, Any],
        payload: bytes = b"",
        *,
        affinity: str | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Run one task in a child and return what its handler returned.

        An idle child that did the last task of the same ``affinity`` is preferred. ``seconds``
        replaces the wall-clock limit; the wait for a free child does not count. When the caller
        is cancelled, the child finishes in the background before it is used again.

        Raises:
            TaskRefused: the handler refused or failed.
            ChildDied: the child died or was killed.
        """
        head = json.dumps(dict(header)).encode()
        frame = (FRAME.pack(DONE, len(head), len(payload)), head, payload)
        child = await self._acquire(affinity)
        child.affinity = affinity
        child.tasks += 1
        answer = child.ask(frame, self._limits.seconds if seconds is None else seconds)
        answer.add_done_callback(partial(self._release, child))
        return await asyncio.shield(answer)

    async def warm(self) -> None:
        """Start one child, so that the first call is quick."""
        if not self._children and not self._closed:
            self._hand_out(await self._start())

    async def close(self) -> None:
        """Kill all children and wait until they are gone; calls in flight fail."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(PoolUnavailable("the pool is closed"))
        self._waiting.clear()
        for child in self._children:
            child.kill(PoolUnavailable("the pool is closed"))
        while self._children:
            await asyncio.wait({child.gone for child in self._children})

    async def _acquire(self, affinity: str | None) -> Child:
        if self._closed:
            raise PoolUnavailable("the pool is closed")
        usable = [child for child in self._idle if not child.doomed]
        if usable:
            matching = [child for child in usable if child.affinity == affinity]
            child = (matching or usable)[0]
            self._idle.remove(child)
            return child
        if len(self._children) < self._size:
            return await self._start()
        waiter: asyncio.Future[Child | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            handed = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._hand_out(waiter.result())
            raise
        if handed is not None and not handed.doomed:
            return handed
        return await self._acquire(affinity)

    async def _start(self) -> Child:
        child = Child(self._forget)
        self._children.add(child)
        try:
            hello = child.ask((), START_SECONDS)
            hello.add_done_callback(_look_at)
            await asyncio.get_running_loop().subprocess_exec(
                lambda: child,
                *(sys.executable, "-P", "-W", "ignore", "-m", "ocr_api.processes"),
                *(self._entry, str(self._limits.memory_bytes)),
                stderr=None,
                env=_environment(),
                start_new_session=True,
            )
        except BaseException as error:
            child.kill(PoolUnavailable("not started"))
            child.abandon()
            if isinstance(error, OSError):
                raise PoolUnavailable(f"cannot start a child: {error.strerror}") from error
            raise
        try:
            await asyncio.shield(hello)
        except asyncio.CancelledError:
            hello.add_done_callback(partial(self._release, child))
            raise
        except (ChildDied, TaskRefused) as error:
            raise PoolUnavailable(f"a child for {self._entry} did not start: {error}") from error
        return child

    def _release(self, child: Child, answer: asyncio.Future[Answer]) -> None:
        _look_at(answer)
        if child.tasks >= self._limits.tasks:
            child.kill(ChildDied("replaced"))
        elif not child.doomed:
            self._hand_out(child)

    def _hand_out(self, child: Child | None) -> None:
        """Give a free child, or None for a free place, to the one who waits longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(child)
                return
        if child is not None:
            self._idle.append(child)

    def _forget(self, child: Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        self._hand_out(None)


def _look_at(answer: asyncio.Future[Answer]) -> None:
    """Look at the outcome, so that asyncio does not complain when nobody else does."""
    if not answer.cancelled():
        answer.exception()


def _environment() -> dict[str, str]:
    """Return what a child may know: how to import, and no secret of ours."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**kept, **_TUNING, "PYTHONPATH": path}
