"""Real vLLM servers with tiny models, as subprocesses: started together, waited for, stopped.

``RECTO_TEST_VLLM`` names the ``vllm`` command of an environment that install.sh made.

    with running(vllm, {"glm_ocr": [], "text": ["--api-key", "secret"]}, folder) as servers:
        servers["text"].base
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.vllm.tiny.folders import FAMILIES, write

HERE = Path(__file__).resolve().parent
VLLM = Path(os.environ.get("RECTO_TEST_VLLM", "nowhere")).absolute()
"""Read when this is imported: the tests' own fixtures clear our variables."""
START_SECONDS = 240
STOP_SECONDS = 20

NAMES = {
    "deepseek_ocr": ("deepseek-ai/DeepSeek-OCR", "deepseek-ocr"),
    "lighton_ocr": ("lightonai/LightOnOCR-2-1B", "lightonocr-2"),
    "lighton_ocr_bbox": ("lightonai/LightOnOCR-2-1B-bbox-soup", "lightonocr-2-bbox"),
    "glm_ocr": ("zai-org/GLM-OCR", "glm-ocr"),
    "text": ("annotator", "text"),
}
"""The names that each model is served under; the first one is echoed."""

COMMON = (
    *("--host", "127.0.0.1", "--load-format", "scripted", "--dtype", "float32"),
    *("--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "8"),
    *("--kv-cache-memory-bytes", "67108864", "--no-enable-prefix-caching"),
)
IMAGES = (
    *("--limit-mm-per-prompt", '{"image": 1}', "--mm-processor-cache-gb", "0"),
    # Where a grammar holds it, a table would else choose white space for ever.
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
)
NGRAM = "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor"
"""vLLM's own class: a CPU has the V1 runner only, so ours cannot be served here."""
FLAGS: dict[str, tuple[str, ...]] = {
    "deepseek_ocr": (*IMAGES, "--logits-processors", NGRAM),
    "lighton_ocr": IMAGES,
    "lighton_ocr_bbox": IMAGES,
    "glm_ocr": IMAGES,
    "text": (),
}

ENVIRONMENT = {
    "PYTHONPATH": str(HERE / "shim"),
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # No worker's process beside the engine's.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


class StartError(Exception):
    """A server died or was not ready in time; the message ends with its log."""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    base: str
    """http://127.0.0.1:PORT, without /v1."""
    model: str
    page: str
    """What it recites, whatever it is shown."""
    log: Path
    pid: int
    """Of its process, which leads a group of its own."""


@contextmanager
def running(
    vllm: Path, wanted: Mapping[str, Sequence[str]], folder: Path
) -> Iterator[dict[str, Server]]:
    """Run one server per wanted model folder, with further flags for each.

    Args:
        vllm: The command, in its environment's ``bin`` folder.
        wanted: Model folder names (see ``tiny/folders.py``), and flags for ``vllm serve``.
        folder: Takes the model folders and the logs.
    """
    servers: dict[str, Server] = {}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, flags in wanted.items():
            port = _free_port()
            log = folder / f"{name}.log"
            process = processes[name] = _start(vllm, write(name, folder), port, flags, log)
            base = f"http://127.0.0.1:{port}"
            servers[name] = Server(base, NAMES[name][0], FAMILIES[name][1], log, process.pid)
        _wait(servers, processes)
        yield servers
    finally:
        _stop(processes.values())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _start(
    vllm: Path, model: Path, port: int, flags: Sequence[str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a server in a process group of its own."""
    name = model.name
    command = [str(vllm), "serve", str(model), "--port", str(port), *COMMON]
    command += ["--served-model-name", *NAMES[name], *FLAGS[name], *flags]
    if orphans_end := shutil.which("setpriv"):
        # When the tests are killed outright, nobody else would stop the servers.
        command = [orphans_end, "--pdeathsig", "TERM", *command]
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    caches = {"VLLM_CACHE_ROOT": os.environ.get("VLLM_CACHE_ROOT", f"{vllm.parent.parent}/cache")}
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            env=inherited | caches | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(servers: Mapping[str, Server], processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Wait until every server answers, and say which one is ready when."""
    began = time.monotonic()
    waiting = list(servers)
    print(f"\nvLLM: waiting up to {START_SECONDS} s for {', '.join(waiting)}", flush=True)
    while waiting:
        taken = time.monotonic() - began
        for name in list(waiting):
            log = servers[name].log
            if processes[name].poll() is not None:
                raise StartError(f"{name} ended with {processes[name].returncode}\n{tail(log)}")
            if _answers(servers[name]):
                waiting.remove(name)
                print(f"vLLM: {name} is ready after {taken:.0f} s", flush=True)
            elif taken > START_SECONDS:
                raise StartError(f"{name} was not ready in {START_SECONDS} s\n{tail(log)}")
        time.sleep(0.25)


def _answers(server: Server) -> bool:
    """Return whether the models can be listed; one that asks for a key is ready too."""
    try:
        with urllib.request.urlopen(f"{server.base}/v1/models", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


def tail(log: Path, lines: int = 40) -> str:
    """Return the end of a server's log."""
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def _stop(processes: Iterator[subprocess.Popen[bytes]] | Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the servers to end, then end what is left of their groups."""
    started = list(processes)
    for process in started:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
