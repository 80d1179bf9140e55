"""Starts, watches and stops ``vllm serve``: one server per card, on loopback.

Why processes and no library: vLLM pins versions that clash with ours and lives in an environment
of its own (design, decision 5). In a cluster Kubernetes does this work; this is for one machine.

Servers start one after the other. Each measures the free memory of the GPU while it starts, and
one that starts beside it would be taken for a part of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from model_registry import serving
from model_registry.card import Card

_HOST = "127.0.0.1"
_GPU_SHARE = 0.92
"""Share of a GPU's memory that vLLM takes when it is not told otherwise (vLLM 0.32)."""
_GPU_FLAGS = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
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


class VllmMissing(RuntimeError):
    """There is no ``vllm`` program; the message says what to do."""


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


def find_vllm(setting: Path | None, root: Path) -> Path:
    """Return the ``vllm`` program.

    Args:
        setting: the one that ``RECTO_VLLM_BIN`` names, if it does.
        root: folder of the project, in which ``make vllm`` makes ``.venv-vllm``.

    Raises:
        VllmMissing: there is none.
    """
    if setting is not None:
        if named := shutil.which(setting):
            return Path(named).absolute()
        raise VllmMissing(f"RECTO_VLLM_BIN names {setting}, which is not a program.")
    found = shutil.which(root / ".venv-vllm" / "bin" / "vllm") or shutil.which("vllm")
    if found is None:
        raise VllmMissing("There is no vllm program: run `make vllm`, or set RECTO_VLLM_BIN.")
    return Path(found).absolute()


class Servers:
    """Runs a server for each card while the context is open.

    Several servers share one GPU: each takes an equal share of .92 of its memory, unless its card
    says what it takes (``--gpu-memory-utilization`` or ``--kv-cache-memory-bytes``).
    """

    def __init__(
        self,
        cards: Sequence[Card],
        program: Path,
        logs: Path,
        *,
        plugins: Path,
        say: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        """Prepare the servers; nothing runs yet.

        Args:
            cards: the models, none of them embedded.
            program: the ``vllm`` program.
            logs: folder for what the servers say, a file each; that of the last run is kept too.
            plugins: the folder of ``recto_ngram.py``.
            say: is told, in a line, what is waited for and what happened.
            patience: how long things may take.

        Raises:
            NoServerError: a card is embedded.
        """
        self._logs = logs
        environment = _environment(program, plugins)
        self._servers = []
        for card, port in zip(cards, _free_ports(len(cards)), strict=True):
            words = serving.command(card, program=str(program), host=_HOST, port=port)
            words += _memory(card, len(cards))
            log = logs / f"{card.id.replace('/', '--')}.log"
            ours = _Server(card.id, port, words, environment, log)
            ours.say, ours.patience = say, patience or Patience()
            self._servers.append(ours)
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def urls(self) -> dict[str, str]:
        """Return the base URL of each server by card id."""
        return {server.name: f"http://{_HOST}:{server.port}/v1" for server in self._servers}

    async def __aenter__(self) -> Servers:
        """Start all servers and return when all are ready.

        Raises:
            ServerFailed: one ended or took too long; none is left running.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for server in self._servers:
                server.keep_last_log()
                await server.start()
        except BaseException:
            await self._stop()
            raise
        self._watchers = [asyncio.create_task(server.watch()) for server in self._servers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all servers; nothing of them is left running."""
        await self._stop()

    async def _stop(self) -> None:
        for task in self._watchers:
            task.cancel()
        try:
            await asyncio.gather(*self._watchers, return_exceptions=True)
            await asyncio.gather(*(server.stop() for server in self._servers))
        finally:  # also when we are cancelled once more while we wait
            for server in self._servers:
                server.kill()


@contextmanager
def beside(servers: Servers) -> Iterator[None]:
    """Run the servers from a thread of their own while the context is open; enter when all answer.

    Why a thread: the web server has an event loop of its own, and takes its signals.

    Raises:
        ServerFailed: as the servers do.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="vllm servers", daemon=True)
    thread.start()
    entering = asyncio.run_coroutine_threadsafe(servers.__aenter__(), loop)
    try:
        entering.result()
        try:
            yield
        finally:
            leaving = servers.__aexit__(None, None, None)
            asyncio.run_coroutine_threadsafe(leaving, loop).result()
    except KeyboardInterrupt:
        entering.cancel()  # which stops what was started
        raise
    finally:
        asyncio.run_coroutine_threadsafe(_others(loop), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _others(loop: asyncio.AbstractEventLoop) -> None:
    """Wait for what a cancelled start still has to stop."""
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task(loop)]
    await asyncio.gather(*tasks, return_exceptions=True)


class _Server:
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
    ask = f"GET /v1/models HTTP/1.0\r\nHost: {_HOST}:{port}\r\n\r\n"
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(_HOST, port)
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


def _memory(card: Card, count: int) -> list[str]:
    """Return the arguments that give a server its share of a GPU that ``count`` servers share."""
    told = any(word.split("=")[0] in _GPU_FLAGS for word in card.serve)
    if told or count == 1:
        return []
    share = math.floor(_GPU_SHARE / count * 1000) / 1000
    return ["--gpu-memory-utilization", f"{share:.3f}"]


def _environment(program: Path, plugins: Path) -> dict[str, str]:
    """Return the variables of a server: ours without our secrets, and what vLLM needs.

    vLLM compiles kernels with tools (ninja) that lie beside its program.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECTO_")}
    path = os.pathsep.join([str(program.parent), kept.get("PATH", os.defpath)])
    return {**kept, **serving.environment(plugins), "PATH": path}


def _free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens at; held together, so that they differ."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind((_HOST, 0))
        return [int(one.getsockname()[1]) for one in held]


def _how(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
