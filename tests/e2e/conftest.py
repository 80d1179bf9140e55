"""A real server process on loopback, for the real clients."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral

from model_registry.card import read_cards
from tests import s3server
from tests.bench.fake import FAKE, running

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    base: str
    """http://127.0.0.1:PORT, without /v1."""
    data: Path
    banner: str
    """What it printed when it was ready."""
    pid: int


def _environment(data: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process with these settings and none of ours."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RECTO_")}
    env |= {f"RECTO_{name}": value for name, value in settings.items()}
    return env | {"RECTO_DATA_DIR": str(data), "RECTO_FETCH_ALLOW": "127.0.0.1"}


def recto(data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run another command of `recto` with these settings."""
    return subprocess.run(
        [sys.executable, "-m", "ocr_api.cli", *arguments],
        env=_environment(data, settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_recto(data: Path, *arguments: str, **settings: str) -> str:
    """Run another command of `recto` with these settings; return what it printed, stripped."""
    done = recto(data, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_key(data: Path, org: str, **settings: str) -> str:
    """Make an organisation and a key of it, as an operator would; return the key."""
    org_id = run_recto(data, "orgs", "create", org, **settings)
    return run_recto(data, "keys", "create", "--org", org_id, **settings)


@contextmanager
def started(data: Path, *options: str, **settings: str) -> Iterator[Server]:
    """Run the service in a process of its own, with these options and settings (in capitals)."""
    log = (data / "log.jsonl").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0", *options],
        env=_environment(data, settings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    with process, log:
        try:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(3)]
            found = re.search(r"http://[0-9.]+:\d+", lines[0])
            assert found, (data / "log.jsonl").read_text()
            yield Server(found[0], data, "".join(lines), process.pid)
        finally:
            process.terminate()
        # uvicorn ends in order, then dies of the signal it was sent.
        assert process.wait(30) == -signal.SIGTERM


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with the CPU engine and the fake engine."""
    with started(tmp_path_factory.mktemp("server"), SHOW_HIDDEN_MODELS="true") as server:
        yield server


# --- with keys, on both pairs of stores ----------------------------------------------------------

SECRET = "a master secret of the tests 0123456789"


@dataclass(frozen=True)
class Stack:
    """A server that asks for keys, and two organisations' keys."""

    server: Server
    key: str
    other: str

    def mistral(self, key: str | None = None) -> Mistral:
        return Mistral(api_key=key or self.key, server_url=self.server.base)

    def openai(self, key: str | None = None) -> openai.OpenAI:
        base = f"{self.server.base}/v1"
        return openai.OpenAI(api_key=key or self.key, base_url=base, max_retries=0)


@pytest.fixture(scope="session", params=["sqlite+disk", "postgresql+s3"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A server on each pair of stores, set up with the commands of an operator."""
    data = tmp_path_factory.mktemp("stack")
    settings = {"SHOW_HIDDEN_MODELS": "true", "SECRET_KEY": SECRET}
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "postgresql+s3":
            for name, value in s3server.ENVIRONMENT.items():
                patch.setenv(name, value)
            cluster = request.getfixturevalue("postgres_cluster")
            settings["BLOB_URL"] = request.getfixturevalue("s3_server").new_bucket()
            settings["DATABASE_URL"] = request.getfixturevalue("session_database")
            assert cluster
            run_recto(data, "db", "upgrade", **settings)
        keys = [make_key(data, name, **settings) for name in ("one", "two")]
        with started(data, **settings) as server:
            yield Stack(server, *keys)


@pytest.fixture(scope="session")
def session_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty PostgreSQL database for the session."""
    with request.getfixturevalue("postgres_cluster").database() as url:
        yield url


# --- with a stand-in for vLLM ---------------------------------------------------------------------

CARDS = {card.id: card for card in read_cards(ROOT / "configs" / "models") if card.engine == "vllm"}
HURRIED = "test/hurried"
"""GLM-OCR's card with half a second for a page."""
ROUTE = "house-ocr"
"""Goes to DeepSeek-OCR, or to LightOnOCR-2, by chance."""


class FakeVlm:
    """The stand-in for vLLM: told what to do wrong, and asked what it was sent."""

    def __init__(self, http: httpx.Client) -> None:
        self.base = str(http.base_url).rstrip("/")
        self._http = http

    def fault(self, *rules: str | dict[str, Any]) -> None:
        """Misbehave by these rules, and by no others; forget what was before."""
        self._tell("/_reset", {"faults": True})
        self._tell("/_answers", {})
        self._tell("/_faults", list(rules))

    def says(self, **answers: Any) -> None:
        """Answer by a script: by_order, by_prompt, by_image, default."""
        self._tell("/_answers", answers)

    def log(self) -> list[dict[str, Any]]:
        """Return the requests that have ended, in the order of their ends."""
        found: list[dict[str, Any]] = self._http.get("/_log").json()["log"]
        return found

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the counts once they are so. It tells nobody: looking again is all there is."""
        end = time.monotonic() + 10
        while not wanted(found := self._http.get("/_stats").json()):
            assert time.monotonic() < end, found
        return dict(found)

    def _tell(self, path: str, body: object) -> None:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="session")
def fake_process() -> Iterator[FakeVlm]:
    if not FAKE.is_file():
        pytest.skip("there is no stand-in for vLLM here")
    models = [word for card in (*CARDS, HURRIED) for word in ("--model", card)]
    # 64 events are vLLM's stream of 4096 tokens at the cards' --stream-interval.
    options = ("--answer-chars", "600", "--stream-chunks", "64", "--echo-model", "requested")
    with running(*models, *options) as (base, _), httpx.Client(base_url=base) as http:
        yield FakeVlm(http)


@pytest.fixture
def fake(fake_process: FakeVlm) -> FakeVlm:
    """The stand-in without faults and without a past."""
    fake_process.fault()
    return fake_process


@pytest.fixture(scope="session")
def vlm_server(fake_process: FakeVlm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with every card of a server's model, all run by the stand-in."""
    folder = tmp_path_factory.mktemp("vlm")
    models = Path(shutil.copytree(ROOT / "configs" / "models", folder / "models"))
    facts = {"id": HURRIED, "aliases": (), "page_seconds": 0.5}
    hurried = CARDS["zai-org/GLM-OCR"].model_copy(update=facts)
    (models / "hurried.yaml").write_text(hurried.model_dump_json())  # JSON is YAML
    url = f"{fake_process.base}/v1"
    targets = ("deepseek-ai/DeepSeek-OCR", "lightonai/LightOnOCR-2-1B")
    route = {"sticky": "request", "targets": [{"card": card, "urls": [url]} for card in targets]}
    routes = folder / "routes.yaml"
    routes.write_text(json.dumps({"default": "rapidocr", "routes": {ROUTE: route}}))
    with started(
        folder,
        MODELS_DIR=str(models),
        ROUTES=str(routes),
        ENGINE_URLS=json.dumps(dict.fromkeys((*CARDS, HURRIED), url)),
        LEDGER_HOURS="0",  # the same page is asked about again and again
    ) as server:
        yield server
