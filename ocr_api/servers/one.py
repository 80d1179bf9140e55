"""One ``vllm serve``: its process group, its port and its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
_TAIL_BYTES = 4096
_LINE_CHARS = 300
_LOOK_SECONDS = 5.0
"""Longest wait for an answer when a server is asked whether it is ready."""

# Asks the kernel to end the server when we are killed, then becomes it. A process that is started
# too late to be told so sees another parent. PR_SET_PDEATHSIG is 1 (linux/prctl.h).
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerFailed(RuntimeError):
    """A server did not become ready; the message says why and ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, in seconds."""

    start: float = 1800.0
    """From the start of a server until it answers; the first time it downloads its weights."""
    news: float = 10.0
    """Between two lines about what is waited for."""
    look: float = 0.5
    """Between two looks whether a server is ready."""
    stop: float = 20.0
    """Until a server that was asked to stop is killed."""
    pauses: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60)
    """Before a server that died is started again; the last one is repeated."""


class Server:
    """One server: its process group, its port and its log."""

    say: Callable[[str], None]
    patience: Patience

    def __init__(
        self, name: str, port: int, words: list[str], environment: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.port = port
        self._words = words
        self._environment = environment
        self._log = log
        self._from = 0
        self._process: asyncio.subprocess.Process | None = None

    def keep_last_log(self) -> None:
        """Put the log of an earlier run aside."""
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.old"))

    async def start(self) -> None:
        """Start the process and return when it answers.

        Raises:
            ServerFailed: it ended, or took too long.
        """
        self._process = await self._launch()
        ended = asyncio.create_task(self._process.wait())
        try:
            await self._wait_until_ready(ended)
        finally:
            ended.cancel()

    async def watch(self) -> None:
        """Start the server again whenever it dies, for ever."""
        tries = 0
        process = self._running()
        reason = f"the server {_how(await process.wait())}: {self._last_line()}"
        while True:
            self.kill()  # whatever it left behind may hold the GPU, or the port
            await self._running().wait()
            pause = self.patience.pauses[min(tries, len(self.patience.pauses) - 1)]
            self.say(f"{self.name}: {reason}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            tries += 1
            try:
                await self.start()
            except (ServerFailed, OSError) as error:
                reason = str(error)
                continue
            self.say(f"{self.name}: the server answers again")
            tries = 0
            reason = f"the server {_how(await self._running().wait())}: {self._last_line()}"

    async def stop(self) -> None:
        """Ask the server to end, and kill its whole group if it does not."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self.patience.stop)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """Kill the server and whatever it started, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _launch(self) -> asyncio.subprocess.Process:
        words = self._words
        if sys.platform == "linux":
            words = [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *words]
        with self._log.open("ab") as log:
            self._from = log.tell()
            return await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    async def _wait_until_ready(self, ended: asyncio.Task[int]) -> None:
        clock = asyncio.get_running_loop().time
        begun = told = clock()
        while self.name not in await _models(self.port):
            if ended.done():
                raise self._failure(f"the server {_how(ended.result())} before it was ready")
            if clock() - begun > self.patience.start:
                raise self._failure(f"the server was not ready after {self.patience.start:g} s")
            if clock() - told >= self.patience.news:
                told = clock()
                waited = f"waiting for the server since {told - begun:.0f} s"
                self.say(f"{self.name}: {waited}: {self._last_line()}")
            await asyncio.wait({ended}, timeout=self.patience.look)

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    def _failure(self, reason: str) -> ServerFailed:
        lines = "\n".join(f"  {line}" for line in self._tail()[-20:])
        return ServerFailed(f"{self.name}: {reason}. Its log is {self._log}; the end:\n{lines}")

    def _last_line(self) -> str:
        return next(reversed(self._tail()), "it has said nothing yet")

    def _tail(self) -> list[str]:
        """Return the last lines that the process said since it was started."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(self._from, self._log.stat().st_size - _TAIL_BYTES))
                text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return []
        plain = "".join(char if char.isprintable() else "\n" for char in text)
        return [line[:_LINE_CHARS] for line in plain.split("\n") if line.strip()]


async def _models(port: int) -> set[str]:
    """Return the names that a server lists; none while it does not answer."""
    ask = f"GET /v1/models HTTP/1.0\r\nHost: {HOST}:{port}\r\n\r\n"
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(ask.encode())
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return set()
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        return set()
    try:
        return {str(model["id"]) for model in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError):
        return set()


def _how(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
