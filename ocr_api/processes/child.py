"""What runs in a supervised child: it shuts itself in, then answers one task after another.

It imports little, because whatever it imports is paid for at every start.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import pkgutil
import signal
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

Answer = tuple[dict[str, Any], bytes]
Handler = Callable[[dict[str, Any], bytes], Answer]

MAX_PAYLOAD = 96 << 20
"""Most bytes after the header of an answer."""

TASK = struct.Struct("!III")
"""Seconds of CPU time, bytes of the JSON header, bytes of the payload."""
FRAME = struct.Struct("!BII")
"""What comes back: status, bytes of the JSON header, bytes of the payload."""
DONE, REFUSED, TAKEN = 0, 1, 2
TOOK = FRAME.pack(TAKEN, 0, 0)
"""Said when a task is here whole, before anything is done about it: from now on its document may
be why the child dies."""


class Refusal(Exception):
    """Raised by a handler, inside the child, for a task that it will not do."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def serve(entry: str, memory_bytes: int) -> None:
    """Serve tasks until stdin ends: what runs in the child."""
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _shut_in(memory_bytes)
    handler: Handler = pkgutil.resolve_name(entry)
    _no_files()
    _send(answers, DONE, {})
    while len(prefix := tasks.read(TASK.size)) == TASK.size:
        cpu_seconds, head_size, payload_size = TASK.unpack(prefix)
        header, payload = tasks.read(head_size), tasks.read(payload_size)
        if len(payload) < payload_size:
            break
        answers.write(TOOK)
        answers.flush()
        _limit_cpu(cpu_seconds)
        _send(answers, *_outcome(handler, header, payload))


def _outcome(handler: Handler, header: bytes, payload: bytes) -> tuple[int, dict[str, Any], bytes]:
    try:
        answer, data = handler(json.loads(header), payload)
        if len(data) > MAX_PAYLOAD:
            return REFUSED, {"code": "memory", "message": "the answer is too large"}, b""
    except Refusal as refusal:
        return REFUSED, {"code": refusal.code, "message": refusal.message}, b""
    except MemoryError:
        return REFUSED, {"code": "memory", "message": "out of memory"}, b""
    except Exception as error:  # noqa: BLE001 - whatever a document provokes is an answer
        return REFUSED, {"code": "crash", "message": type(error).__name__}, b""
    return DONE, answer, data


def _send(answers: BinaryIO, status: int, header: dict[str, Any], payload: bytes = b"") -> None:
    head = json.dumps(header).encode()
    answers.write(FRAME.pack(status, len(head), len(payload)))
    answers.write(head)
    answers.write(payload)
    answers.flush()


def _shut_in(memory_bytes: int) -> None:
    """Take away what a task does not need, before anything else is imported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    # Under a file size limit of 0, a log file as stderr would turn a warning into an error.
    os.dup2(null if stat.S_ISREG(os.fstat(2).st_mode) else 2, 2)
    os.dup2(2, 1)  # what a library prints must not come between the frames
    os.close(null)
    if sys.platform != "win32":
        _limit("RLIMIT_AS", memory_bytes)
        _limit("RLIMIT_CORE", 0)
    if sys.platform == "linux":
        kernel = ctypes.CDLL(None)
        kernel.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        kernel.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _no_files() -> None:
    """Forbid to write files and to open many; after the imports, which may write bytecode.

    Why 64: a drawing child holds 7 and an engine's child 5 between tasks (2026), but libraries
    open fonts, models and files of /proc as they please, and one that is refused fails oddly.
    Why no RLIMIT_NPROC: it counts the threads of the user, not of the process, and libraries that
    read pages start threads.
    """
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_NOFILE", 64)


def _limit_cpu(seconds: int) -> None:
    """Allow so much CPU time from now on: a second wall, in case the parent's clock stands still.

    The soft limit alone, because it can be raised again for the next task; SIGXCPU ends a child.
    """
    import resource  # noqa: PLC0415 - beside `_limit`

    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with suppress(ValueError, OSError):  # a hard limit that is lower already is as good
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(name: str, value: int) -> None:
    import resource  # noqa: PLC0415 - not on every platform

    with suppress(ValueError, OSError):  # a hard limit that is lower already is as good
        resource.setrlimit(getattr(resource, name), (value, value))
