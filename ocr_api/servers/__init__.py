"""Starts, watches and stops ``vllm serve``: one server per card, on loopback.

Why processes and no library: vLLM pins versions that clash with ours and lives in an environment
of its own (design, decision 5). In a cluster Kubernetes does this work; this is for one machine.

Servers start one after the other. Each measures the free memory of the GPU while it starts, and
one that starts beside it would be taken for a part of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from model_registry import serving
from model_registry.card import Card
from ocr_api.servers.one import HOST, Patience, Server, ServerFailed

__all__ = ["Patience", "ServerFailed", "Servers", "VllmMissing", "beside", "find_vllm"]

_GPU_SHARE = 0.92
"""Share of a GPU's memory that vLLM takes when it is not told otherwise (vLLM 0.32)."""
_GPU_FLAGS = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")


class VllmMissing(RuntimeError):
    """There is no ``vllm`` program; the message says what to do."""


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
            words = serving.command(card, program=str(program), host=HOST, port=port)
            words += _memory(card, len(cards))
            log = logs / f"{card.id.replace('/', '--')}.log"
            ours = Server(card.id, port, words, environment, log)
            ours.say, ours.patience = say, patience or Patience()
            self._servers.append(ours)
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def urls(self) -> dict[str, str]:
        """Return the base URL of each server by card id."""
        return {server.name: f"http://{HOST}:{server.port}/v1" for server in self._servers}

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

    def kill(self) -> None:
        """Kill all servers and whatever they started, at once; for any thread."""
        for server in self._servers:
            server.kill()

    async def _stop(self) -> None:
        for task in self._watchers:
            task.cancel()
        try:
            await asyncio.gather(*self._watchers, return_exceptions=True)
            await asyncio.gather(*(server.stop() for server in self._servers))
        finally:  # also when we are cancelled once more while we wait
            self.kill()


@contextmanager
def beside(servers: Servers) -> Iterator[None]:
    """Run the servers from a thread of their own while the context is open; enter when all answer.

    Why a thread: the web server has an event loop of its own, and takes its signals.

    Interrupted while the servers start, it stops them in order; interrupted while they stop, it
    kills them.

    Raises:
        ServerFailed: as the servers do.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="vllm servers", daemon=True)
    thread.start()
    entering = asyncio.run_coroutine_threadsafe(servers.__aenter__(), loop)
    try:
        try:
            entering.result()
        except KeyboardInterrupt:
            entering.cancel()  # which stops what was started
            asyncio.run_coroutine_threadsafe(_others(loop), loop).result()
            raise
        try:
            yield
        finally:
            leaving = servers.__aexit__(None, None, None)
            asyncio.run_coroutine_threadsafe(leaving, loop).result()
    except KeyboardInterrupt:
        servers.kill()  # here, and not in the loop: nothing is waited for any more
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


def _memory(card: Card, count: int) -> list[str]:
    """Return the arguments that give a server its share of a GPU that ``count`` servers share."""
    told = any(word.split("=")[0] in _GPU_FLAGS for word in card.serve)
    if told or count == 1:
        return []
    share = math.floor(_GPU_SHARE / count * 1000) / 1000
    return ["--gpu-memory-utilization", f"{share:.3f}"]


def _environment(program: Path, plugins: Path) -> dict[str, str]:
    """Return the variables of a server: ours without our secrets, and what vLLM needs.

    vLLM compiles kernels with tools (ninja) that lie beside its program. With VLLM_API_KEY it
    would want a key of everybody, and we ask it with none whether it is ready.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RECTO_") and name != "VLLM_API_KEY"
    }
    path = os.pathsep.join([str(program.parent), kept.get("PATH", os.defpath)])
    return {**kept, **serving.environment(plugins), "PATH": path}


def _free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens at; held together, so that they differ."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in held]
