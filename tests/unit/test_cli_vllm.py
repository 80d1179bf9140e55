"""`recto vllm` and `recto serve --with-vllm`, with a stand-in for the vllm program."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ocr_api import cli

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests" / "engines" / "serving.py"
GLM = "zai-org/GLM-OCR"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a `recto` whose vllm is the stand-in."""
    orders = tmp_path / "orders"
    orders.mkdir()
    program = tmp_path / "vllm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}" "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "STANDIN": str(orders),
        "RECTO_DATA_DIR": str(tmp_path / "data"),
        "RECTO_VLLM_BIN": str(program),
        "RECTO_LOG_LEVEL": "ERROR",
    }


def recto(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words)


def started(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_command_of_a_card_is_printed() -> None:
    done = recto("vllm", "deepseek-ocr", "--port", "8123")
    assert done.exit_code == 0
    words = shlex.split(done.stdout)
    assert words[0] == f"PYTHONPATH={ROOT / 'configs' / 'vllm'}"
    start, name = words.index("vllm"), "deepseek-ai/DeepSeek-OCR"
    assert words[start : start + 5] == ["vllm", "serve", name, "--served-model-name", name]
    assert words[words.index("--port") + 1] == "8123"
    assert words[words.index("--stream-interval") + 1] == "64"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("vllm", "gpt-4"), "There is no card 'gpt-4'. Cards here: "),
        (("vllm", "rapidocr"), "rapidocr runs inside Recto and needs no server"),
        (("serve", "--port", "0", "--with-vllm", "gpt-4"), "There is no card 'gpt-4'"),
        (("serve", "--port", "0", "--with-vllm", "rapidocr"), "rapidocr runs inside Recto"),
    ],
)
def test_odd_cards_are_refused(
    words: tuple[str, ...],
    said: str,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = recto(*words)
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_a_missing_program_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECTO_VLLM_BIN", str(tmp_path / "none"))
    monkeypatch.setenv("RECTO_DATA_DIR", str(tmp_path / "data"))
    said = f"recto: RECTO_VLLM_BIN names {tmp_path / 'none'}, which is not a program.\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = recto("serve", "--port", str(port), "--with-vllm", GLM)
    assert (done.exit_code, done.output) == (1, said)  # and nothing about the port


def test_one_command_serves_a_model_and_stops_it(environment: dict[str, str]) -> None:
    environment["RECTO_ENGINE_URLS"] = '{"glm-ocr": "http://127.0.0.1:9/v1"}'  # which it replaces
    routes = Path(environment["STANDIN"]) / "routes.yaml"
    routes.write_text(f"default: rapidocr\nannotator: {GLM}\n")
    environment["RECTO_ROUTES"] = str(routes)
    process = started(environment, "--with-vllm", "glm-ocr", "--with-vllm", GLM)
    with process:
        assert process.stdout
        base = process.stdout.readline().split()[3]
        with urllib.request.urlopen(f"{base}/readyz", timeout=60) as answer:
            checks = json.load(answer)["checks"]
        (name,) = (name for name in checks if GLM in name)
        assert checks[name] == "ok"
        with urllib.request.urlopen(f"http://{name.split()[-1]}/facts", timeout=60) as answer:
            facts = json.load(answer)
        assert facts["words"][:2] == ["serve", GLM]
        assert "--gpu-memory-utilization" not in facts["words"]  # it has the GPU for itself
        assert left(environment) == [facts["pid"]]
        assert not [name for name in facts["environment"] if name.startswith("RECTO_")]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0  # it ended in order, and not of the signal
    with pytest.raises(ProcessLookupError):
        os.kill(facts["pid"], 0)


def test_a_server_that_does_not_start_is_said(environment: dict[str, str]) -> None:
    (Path(environment["STANDIN"]) / "broken").touch()
    process = started(environment, "--with-vllm", GLM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.startswith(f"recto: {GLM}: the server ended with code 3 before it was ready.")
    assert f"loading {GLM}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_servers_start_stops_them(environment: dict[str, str], number: int) -> None:
    (Path(environment["STANDIN"]) / "closed").touch()
    process = started(environment, "--with-vllm", GLM)
    log = Path(environment["RECTO_DATA_DIR"]) / "vllm" / "zai-org--GLM-OCR.log"
    wait_until(lambda: log.exists() and "loading" in log.read_text())
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (1, STOPPED)
    assert left(environment) == []


def make_deaf(environment: dict[str, str]) -> Path:
    """Let the server outlive SIGTERM; return the file that it makes when it gets one."""
    asked = Path(environment["STANDIN"]) / "asked"
    Path(environment["RECTO_VLLM_BIN"]).write_text(
        f"#!/bin/sh\ntrap 'touch \"{asked}\"' TERM\n"
        f'"{sys.executable}" "{STANDIN}" "$@" &\nwhile :; do wait; done\n'
    )
    return asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_servers_start_kills_them(
    environment: dict[str, str], number: int
) -> None:
    (Path(environment["STANDIN"]) / "closed").touch()
    asked = make_deaf(environment)
    process = started(environment, "--with-vllm", GLM)
    wait_until(lambda: bool(left(environment)))
    process.send_signal(number)
    wait_until(asked.exists)
    process.send_signal(number)
    said = process.communicate(timeout=10)[1]  # less than what one signal waits
    assert (process.returncode, said) == (1, STOPPED)
    assert left(environment) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_servers_stop_kills_them(
    environment: dict[str, str], number: int
) -> None:
    asked = make_deaf(environment)
    process = started(environment, "--with-vllm", GLM)
    assert process.stdout
    assert process.stdout.readline().startswith("Recto listens")
    process.send_signal(number)
    wait_until(asked.exists)
    process.send_signal(number)
    said = process.communicate(timeout=10)[1]
    assert (process.returncode, said) == (1, "recto: Stopped.\n")
    assert left(environment) == []


STOPPED = "recto: Stopped while the vLLM servers were starting.\n"


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Look again until it is true: a file of another process tells nobody that it changed."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def left(environment: dict[str, str]) -> list[int]:
    """Return the processes that run the stand-in of this test."""
    ours = f"STANDIN={environment['STANDIN']}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            if words[1:2] == [str(STANDIN).encode()] and ours in variables:
                found.append(int(process.name))
    return found
