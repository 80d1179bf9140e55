"""Supervised child processes: one task at a time each, frames over pipes, killed when they overrun.

Why: decoders abort (PDFium ends its process when memory runs out), loop, and may be taken over by
a hostile file. A child that dies costs one task; a ``ProcessPoolExecutor`` would break whole, and
unpickles what its children say. Here an answer is capped JSON plus bytes, and nothing else.

A handler is ``def handle(header: dict, payload: bytes) -> tuple[dict, bytes]``, named by
``package.module:function``; it raises `Refusal` for what it will not do. It may run twice for one
task, because a child that dies proves little: it may have been killed from outside.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ocr_api.processes.child import TASK, Answer, Refusal
from ocr_api.processes.line import Line
from ocr_api.processes.link import (
    Child,
    ChildDied,
    ChildKilled,
    ChildTimedOut,
    PoolUnavailable,
    TaskRefused,
    Work,
)

__all__ = [
    "Answer",
    "ChildDied",
    "ChildKilled",
    "ChildTimedOut",
    "Limits",
    "Pool",
    "PoolUnavailable",
    "Refusal",
    "TaskRefused",
]

START_SECONDS = 120.0
"""Longest time a child may take to start and import its entry."""
TRIES = 2
"""A task is given up when so many children have died of it."""
ALL_TRIES = 1.3
"""Longest time of all tries of a task, as a multiple of its seconds."""
CPU_SHARE = 2.0
"""CPU time that a task may use, as a multiple of its seconds; the wall clock strikes first."""
PROBLEM_SECONDS = 30.0
"""A start that failed is a problem for so long: only another try can tell whether it still is."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT")
_KEEP_BUFFERS = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
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
    keeps_buffers: bool = False
    """malloc keeps large buffers that were freed, instead of giving them back to the kernel: less
    time where every task needs the same ones, more memory between tasks."""
    resident_bytes: int | None = None
    """The child is replaced after a task that leaves it with more memory than this in use (RSS;
    Linux only); None: however much it has."""
    resident_every: int = 16
    """Tasks between two looks at that, each of which costs a tenth of a millisecond."""


class Pool:
    """Up to ``size`` children that run one entry; started when needed, replaced when they die."""

    def __init__(self, entry: str, size: int, limits: Limits) -> None:
        """Start nothing. ``entry`` is the handler, as ``package.module:function``."""
        self._entry = entry
        self.size = max(1, size)
        self._limits = limits
        self._children: set[Child] = set()
        self._idle: list[Child] = []  # the longest idle first
        self._line = Line()
        self._unclaimed = False  # a child is starting, and no task waits for it
        self._failure: tuple[float, str] | None = None  # when and why no child could be started
        self._closed = False

    async def call(
        self,
        header: Mapping[str, Any],
        payload: bytes = b"",
        *,
        owner: str = "",
        affinity: str | None = None,
        quick: bool = False,
        seconds: float | None = None,
    ) -> Answer:
        """Run one task in a child and return what its handler returned.

        An idle child that did the last task of the same ``affinity`` is preferred. Of the tasks
        that wait, one of the ``owner`` with the fewest children at work is next, then of the one
        served longest ago: who has one task does not wait for all of who has a thousand. Of one
        owner's tasks those that are ``quick`` as a rule come first, then those of the affinity
        with the fewest children at work, then the oldest. ``seconds`` replaces the wall-clock
        limit; the wait for a free child does not count. When the caller is cancelled, the child
        finishes in the background before it is used again.

        When the child dies, but not at a limit of time, a fresh one gets the task: at once, where
        the task had not reached the dead one; else a second and last time.

        Raises:
            TaskRefused: the handler refused or failed.
            ChildTimedOut: the child was killed at a limit of time.
            ChildKilled: two children were killed, neither by us nor by their own fault.
            ChildDied: two children died.
            PoolUnavailable: no child could take the task.
        """
        head = json.dumps(dict(header)).encode()
        limit = self._limits.seconds if seconds is None else seconds
        cpu = TASK.pack(math.ceil(limit * CPU_SHARE), len(head), len(payload))
        frame, left, clock = (cpu, head, payload), limit * ALL_TRIES, asyncio.get_running_loop()
        work, deaths, lost = Work(owner, affinity, quick), list[ChildDied](), 0
        child = await self._acquire(work)
        while True:
            begun = clock.time()
            try:
                return await self._ask(child, frame, work, min(limit, left))
            except (ChildTimedOut, PoolUnavailable):
                raise
            except ChildDied as death:
                if child.taken:
                    deaths.append(death)
                    left -= clock.time() - begun
                else:
                    lost += child.fresh
            if len(deaths) == TRIES:
                raise _verdict(deaths)
            if lost == TRIES:
                raise PoolUnavailable("children die before they take a task")
            await asyncio.wait({child.gone})
            child = await self._start_for_repeat(work)

    async def warm(self) -> None:
        """Start one child, so that the first call is quick.

        Raises:
            PoolUnavailable: it cannot be started.
        """
        if self._children or self._closed:
            return
        self._unclaimed = True
        try:
            child = await self._start()
        finally:
            self._unclaimed = False
        self._hand_out(child)

    def problem(self) -> str | None:
        """Return why there may be no child for the next task, or None; starts nothing."""
        if self._closed:
            return "the pool is closed"
        if self._failure is None:
            return None
        when, why = self._failure
        return why if asyncio.get_running_loop().time() - when < PROBLEM_SECONDS else None

    async def close(self) -> None:
        """Kill all children and wait until they are gone; calls in flight fail."""
        self._closed = True
        self._line.fail("the pool is closed")
        for child in self._children:
            child.kill(PoolUnavailable("the pool is closed"))
        while self._children:
            await asyncio.wait({child.gone for child in self._children})

    async def _ask(
        self, child: Child, frame: tuple[bytes, ...], work: Work, seconds: float
    ) -> Answer:
        child.work = work
        child.tasks += 1
        answer = child.ask(frame, seconds)
        answer.add_done_callback(partial(self._release, child))
        return await asyncio.shield(answer)

    async def _acquire(self, work: Work) -> Child:
        """Return a free child, or start one, or wait for one."""
        while True:
            self._check_open()
            usable = [child for child in self._idle if not child.doomed]
            if usable:
                matching = [child for child in usable if child.work.affinity == work.affinity]
                child = (matching or usable)[0]
                self._idle.remove(child)
                self._line.serve(work.owner)
                return child
            if len(self._children) < self.size and not self._unclaimed:
                self._line.serve(work.owner)
                return await self._start()
            self._unclaimed = False
            handed = await self._wait(work)
            if handed is not None and not handed.doomed:
                return handed

    async def _start_for_repeat(self, work: Work) -> Child:
        """Start a child before anybody else may; where no place is free, one is made.

        Why no child that lived before: what it did may have spoiled it, and the second death is
        held against the document.
        """
        self._check_open()
        while len(self._children) >= self.size:
            if self._idle:
                _count("replaced")
                self._idle.pop(0).kill(ChildDied("replaced"))
            handed = await self._wait(work, is_repeat=True)
            if handed is not None:
                _count("replaced")
                handed.kill(ChildDied("replaced"))
            self._check_open()
        return await self._start()

    async def _wait(self, work: Work, *, is_repeat: bool = False) -> Child | None:
        """Return the next free child, or None when a place became free."""
        free = self._line.wait(work, is_repeat=is_repeat)
        try:
            return await free
        except asyncio.CancelledError:
            if free.done() and not free.cancelled() and not free.exception():
                self._hand_out(free.result())
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise PoolUnavailable("the pool is closed")

    async def _start(self) -> Child:
        """Start a child; note whether that worked.

        Raises:
            PoolUnavailable: it cannot be started.
        """
        try:
            child = await self._spawn()
        except PoolUnavailable as error:
            self._failure = asyncio.get_running_loop().time(), str(error)
            raise
        self._failure = None
        return child

    async def _spawn(self) -> Child:
        """Start a child; once more, where somebody killed it while it started."""
        try:
            return await self._spawn_once()
        except PoolUnavailable as error:
            if not isinstance(error.__cause__, ChildKilled):
                raise
        return await self._spawn_once()

    async def _spawn_once(self) -> Child:
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
                env=_environment(self._limits),
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
            child.kill(ChildDied("not started"))
            raise PoolUnavailable(f"a child for {self._entry} did not start: {error}") from error
        return child

    def _release(self, child: Child, answer: asyncio.Future[Answer]) -> None:
        _look_at(answer)
        if death := _kind_of_death(answer):
            _count(death)
        elif not child.doomed and self._is_worn(child):
            _count("worn")
            child.kill(ChildDied("replaced"))
        elif not child.doomed:
            self._hand_out(child)

    def _is_worn(self, child: Child) -> bool:
        most = self._limits.resident_bytes
        look = most is not None and child.tasks % self._limits.resident_every == 0
        if most is not None and look and child.resident_bytes() > most:
            return True
        return child.tasks >= self._limits.tasks

    def _hand_out(self, child: Child | None) -> None:
        """Give a free child, or None for a free place, to the one who is next."""
        if child is not None:
            child.fresh = False
        following = self._line.next(one.work for one in self._children if one.is_busy)
        if following is not None:
            following.set_result(child)
        elif child is not None and not child.doomed:
            self._idle.append(child)

    def _forget(self, child: Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)
            if not self._closed:
                _count("idle")
        self._hand_out(None)


def _verdict(deaths: list[ChildDied]) -> ChildDied:
    """Return the death that says most: the last that nobody outside can have caused."""
    own = [death for death in deaths if not isinstance(death, ChildKilled)]
    return (own or deaths)[-1]


def _kind_of_death(answer: asyncio.Future[Answer]) -> str | None:
    """Return the word for how a child ended during its task; None where it did not, or by us."""
    error = None if answer.cancelled() else answer.exception()
    kinds = ((ChildTimedOut, "time"), (ChildKilled, "killed"), (PoolUnavailable, None))
    if not isinstance(error, ChildDied):
        return None
    return next((word for kind, word in kinds if isinstance(error, kind)), "died")


def _count(reason: str) -> None:
    """Count a child that ended, in the process that has the pool."""
    # Children import this module too, and count nothing: 50 ms and 5 MB of each are saved.
    from ocr_api import meters  # noqa: PLC0415

    meters.child_restarted(reason)


def _look_at(answer: asyncio.Future[Answer]) -> None:
    """Look at the outcome, so that asyncio does not complain when nobody else does."""
    if not answer.cancelled():
        answer.exception()


def _environment(limits: Limits) -> dict[str, str]:
    """Return what a child may know: how to import, and no secret of ours."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    tuning = _KEEP_BUFFERS if limits.keeps_buffers else {}
    return {**kept, **tuning, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
