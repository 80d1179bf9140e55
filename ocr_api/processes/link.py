"""The parent's end of one supervised child: its process, its open task, its last word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from ocr_api.processes.child import DONE, FRAME, MAX_PAYLOAD, REFUSED, TOOK, Answer

MAX_HEADER = 8 << 20
"""Most bytes of the JSON header of an answer."""

LAST_WORDS_SECONDS = 1.0
"""Longest wait for the end of what a child said, once its process has ended."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class ChildDied(Exception):
    """The child died during the task; the message says how."""


class ChildTimedOut(ChildDied):
    """The child was killed at the limit of wall-clock or CPU time."""


class ChildKilled(ChildDied):
    """Somebody else killed the child: a person, or the kernel when memory ran out."""


class PoolUnavailable(ChildDied):
    """No child did anything: the pool is closed, or no child can be started."""


class TaskRefused(Exception):
    """The handler refused the task or failed at it; its child lives on.

    ``code`` is that of the `Refusal`, ``memory`` (out of memory), or ``crash`` (any other
    exception; the message is then the name of its type).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Work:
    """Whose a task is, and what it works on: what a choice between tasks goes by."""

    owner: str = ""
    """Owners have equal shares of the children."""
    affinity: str | None = None
    """Tasks of one affinity are better done by the same child."""
    quick: bool = False
    """It goes before its owner's other tasks."""


class Child(asyncio.SubprocessProtocol):
    """The parent's end of one child; it is killed when it speaks without being asked."""

    def __init__(self, on_gone: Callable[[Child], None]) -> None:
        self.tasks = 0
        self.work = Work()
        """What its last task was."""
        self.doomed = False
        self.taken = False
        """It said that the last task had reached it."""
        self.fresh = True
        """Its first task is the one that it was started for."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_gone = on_gone
        self._transport: asyncio.SubprocessTransport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._silent = False  # it will say no more
        self._received = bytearray()

    def ask(self, frame: tuple[bytes, ...], seconds: float) -> asyncio.Future[Answer]:
        """Send a task; return its answer, which is done within ``seconds`` whatever happens."""
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        self.taken = False
        late = ChildTimedOut(f"killed after {seconds:g} s")
        self._deadline = loop.call_later(seconds, self.kill, late)
        if self.doomed:
            self._settle(ChildDied("ended while it had nothing to do"))
        elif self._transport is not None:
            pipe = self._transport.get_pipe_transport(0)
            cast("asyncio.WriteTransport", pipe).writelines(frame)
        return answer

    @property
    def is_busy(self) -> bool:
        """It has a task, or is starting."""
        return self._answer is not None

    def resident_bytes(self) -> int:
        """Return how much memory the process has in use; 0 where nobody can tell.

        Format: Linux, proc_pid_statm(5); the second number is resident pages.
        """
        if self._transport is None or sys.platform != "linux":
            return 0
        try:
            facts = Path(f"/proc/{self._transport.get_pid()}/statm").read_bytes()
        except OSError:
            return 0
        return int(facts.split()[1]) * _PAGE_BYTES

    def kill(self, why: ChildDied) -> None:
        """End the process now; an answer that is awaited fails with ``why``."""
        self.doomed = True
        self._settle(why)
        if self._transport is not None:
            with suppress(ProcessLookupError):
                self._transport.kill()

    def abandon(self) -> None:
        """Note that the process is gone, or was never started."""
        if not self.gone.done():
            self.gone.set_result(None)
            self._on_gone(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: the process was started."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        if self.doomed:
            self._transport.kill()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take what the child says; nonsense ends it."""
        del fd
        if self.doomed and self._answer is None:
            return
        self._received += data
        if self._answer is not None and not self.taken and self._received.startswith(TOOK):
            self.taken = True
            del self._received[: len(TOOK)]
        try:
            answer = _parse(self._received)
        except (ValueError, RecursionError):
            self.kill(ChildDied("answered with something that is no answer"))
            return
        if self._answer is None:
            self.kill(ChildDied("spoke without being asked"))
        elif answer is not None:
            self._received = bytearray()
            self._settle(answer)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note that the child will say no more."""
        del exc
        if fd == 1:
            self._silent = True
            if self._closing is not None:
                self._close()

    def process_exited(self) -> None:
        """Note that the process ended; what it said before may still be on its way."""
        self.doomed = True
        if self._silent:
            self._close()
        else:
            loop = asyncio.get_running_loop()
            self._closing = loop.call_later(LAST_WORDS_SECONDS, self._close)

    def _close(self) -> None:
        """Fail what is open."""
        if self._closing is not None:
            self._closing.cancel()
        if self._transport is not None:
            self._settle(_death(self._transport.get_returncode()))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the process is gone and its pipes are closed."""
        del exc
        self.abandon()

    def _settle(self, outcome: Answer | Exception) -> None:
        answer, self._answer = self._answer, None
        if self._deadline is not None:
            self._deadline.cancel()
        if answer is None or answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


def _parse(received: bytearray) -> Answer | TaskRefused | None:
    """Return the answer in what a child sent, or None while it is incomplete.

    Raises:
        ValueError: no well-behaved child says this.
    """
    if len(received) < FRAME.size:
        return None
    status, head_size, payload_size = FRAME.unpack_from(received)
    if status not in (DONE, REFUSED) or head_size > MAX_HEADER or payload_size > MAX_PAYLOAD:
        raise ValueError("bad frame")
    body = FRAME.size + head_size
    if len(received) < body + payload_size:
        return None
    header = json.loads(received[FRAME.size : body], parse_constant=_no_number)
    if not isinstance(header, dict) or len(received) > body + payload_size:
        raise ValueError("bad answer")
    if status == REFUSED:
        return TaskRefused(str(header.get("code"))[:64], str(header.get("message"))[:500])
    return header, bytes(memoryview(received)[body:])


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


_DEATHS: Mapping[int, type[ChildDied]] = {
    signal.SIGKILL: ChildKilled,
    signal.SIGTERM: ChildKilled,
    signal.SIGXCPU: ChildTimedOut,
}


def _death(code: int | None) -> ChildDied:
    """Return what a child died of, that we did not kill, from its return code."""
    if code is None or code >= 0:
        return ChildDied(f"ended with status {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return _DEATHS.get(-code, ChildDied)(f"ended by {name}")
