"""The parent's end of one supervised child: its process, its open task, its last word."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, cast

from ocr_api.processes.child import DONE, FRAME, MAX_PAYLOAD, REFUSED, Answer

MAX_HEADER = 8 << 20
"""Most bytes of the JSON header of an answer."""


class ChildDied(Exception):
    """The child died during the task; the message says how."""


class ChildTimedOut(ChildDied):
    """The child was killed at the wall-clock limit."""


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


class Child(asyncio.SubprocessProtocol):
    """The parent's end of one child; it is killed when it speaks without being asked."""

    def __init__(self, on_gone: Callable[[Child], None]) -> None:
        self.tasks = 0
        self.affinity: str | None = None
        self.doomed = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_gone = on_gone
        self._transport: asyncio.SubprocessTransport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._received = bytearray()

    def ask(self, frame: tuple[bytes, ...], seconds: float) -> asyncio.Future[Answer]:
        """Send a task; return its answer, which is done within ``seconds`` whatever happens."""
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        late = ChildTimedOut(f"killed after {seconds:g} s")
        self._deadline = loop.call_later(seconds, self.kill, late)
        if self.doomed:
            self._settle(ChildDied("ended while it had nothing to do"))
        elif self._transport is not None:
            pipe = self._transport.get_pipe_transport(0)
            cast("asyncio.WriteTransport", pipe).writelines(frame)
        return answer

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
        if self.doomed:
            return
        self._received += data
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

    def process_exited(self) -> None:
        """Fail what is open: the process ended."""
        self.doomed = True
        if self._transport is not None:
            self._settle(ChildDied(_how(self._transport.get_returncode())))
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


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with status {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
