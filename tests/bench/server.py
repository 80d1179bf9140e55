"""A server process to measure, and the little HTTP that it needs."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_registry.card import read_cards
from tests.bench import fake

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """Start a server on a free port; give its base URL and process id.

    Args:
        folder: its data stand in ``server`` there.
        settings: further ones, in capitals.
    """
    ours = {
        "DATA_DIR": str(folder / "server"),
        "LOG_LEVEL": "ERROR",
        "SHOW_HIDDEN_MODELS": "true",
        **settings,
    }
    env = os.environ | {f"RECTO_{name}": value for name, value in ours.items()}
    command = [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            found = re.search(r"http://[\w.]+:\d+", server.stdout.readline())
            assert found
            yield found[0], server.pid
        finally:
            server.terminate()


def with_places(folder: Path, card_id: str, places: int, url: str | None = None) -> dict[str, str]:
    """Return settings of a server that has this card alone, with so many pages in flight.

    Args:
        folder: for the card and the routes.
        card_id: of one of the project's cards.
        places: the card's ``pages_in_flight``.
        url: of the server that runs the model, without ``/v1``; None for an embedded engine.
    """
    models = folder / "models"
    models.mkdir(parents=True)
    [card] = [card for card in read_cards(ROOT / "configs" / "models") if card.id == card_id]
    facts = {"pages_in_flight": places, "regions_card": None}
    (models / "card.yaml").write_text(card.model_copy(update=facts).model_dump_json())
    routes = folder / "routes.yaml"
    routes.write_text(json.dumps({"default": card_id}))
    settings = {"MODELS_DIR": str(models), "ROUTES": str(routes)}
    return settings if url is None else {**settings, **at(url, card_id)}


def at(url: str, card_id: str = fake.CARD) -> dict[str, str]:
    """Return the setting that names the server of a card's model."""
    return {"ENGINE_URLS": json.dumps({card_id: f"{url}/v1"})}


def asking(document: bytes, model: str, **fields: object) -> bytes:
    """Return the body of a request with a document inside."""
    inline = {"document_content": base64.b64encode(document).decode()}
    return json.dumps({"model": model, "document": inline, **fields}).encode()


def asking_picture(jpeg: bytes, model: str) -> bytes:
    """Return the body of a request with a JPEG inside."""
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return json.dumps({"model": model, "document": {"image_url": uri}}).encode()


def read(base: str, document: bytes, model: str, **fields: object) -> dict[str, Any]:
    """Read a document that goes inside the request."""
    return _answer(f"{base}/v1/ocr", asking(document, model, **fields))


def read_file(base: str, file_id: str, model: str) -> dict[str, Any]:
    """Read a document that was uploaded."""
    return _answer(f"{base}/v1/files/{file_id}/ocr", json.dumps({"model": model}).encode())


def _answer(url: str, body: bytes) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body)
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
