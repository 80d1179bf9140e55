"""Recto in front of the tiny servers: a process of its own, and a small client of it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from mistralai.client import Mistral

from model_registry.card import Card, read_cards
from tests import samples
from tests.e2e import conftest as e2e
from tests.vllm.servers import NAMES, Server
from tests.vllm.tiny.families import glm_ocr

Json = dict[str, Any]
DEEPSEEK, LIGHTON, BBOX, GLM, ANNOTATOR = (
    NAMES[name][0]
    for name in ("deepseek_ocr", "lighton_ocr", "lighton_ocr_bbox", "glm_ocr", "text")
)
MODELS = (DEEPSEEK, LIGHTON, GLM)
"""The three public ones."""
DEADLINE = 60

TEXT_CARD = Card.model_validate(
    {
        "id": ANNOTATOR,
        "engine": "vllm",
        "parser": "plain",
        "name": "Annotator",
        "description": "Recites JSON.",
        "licence": "Apache-2.0",
        "source": "tests/vllm/tiny",
        "sampling": {"temperature": 0.0},
        "max_tokens": 1024,
        "context": 4096,
        # It has no eyes, but a card has to say how many tokens they would take.
        "vision": {"rule": "patches", "side": 28, "rounding": "up", "max_tokens": 1024},
        "annotation": {"by": "chat", "trained": True, "images": False, "max_tokens": 1024},
    }
)


def cards() -> list[Card]:
    """Return the cards that Recto ships, and one of the tiny annotator.

    A stop token outside of a model's vocabulary is refused, so GLM-OCR's are the tiny one's.
    """
    found = {card.id: card for card in read_cards(e2e.ROOT / "configs" / "models")}
    family = glm_ocr()
    stop = tuple(family.controls.index(token) for token in ("<|endoftext|>", "<|user|>"))
    glm = found[GLM]
    sampling = glm.sampling.model_copy(update={"stop_token_ids": stop})
    found[GLM] = glm.model_copy(update={"sampling": sampling})
    return [*found.values(), TEXT_CARD]


@contextmanager
def running(
    servers: Mapping[str, Server], folder: Path, key: str, annotator: str | None
) -> Iterator[e2e.Server]:
    """Run Recto with every tiny server behind it.

    Args:
        servers: by the names of their model folders.
        folder: takes cards, routes and data.
        key: what the servers are sent.
        annotator: the card that annotates for the others.
    """
    models = folder / "models"
    models.mkdir()
    for number, card in enumerate(cards()):
        (models / f"{number}.yaml").write_text(card.model_dump_json(), "utf-8")  # JSON is YAML
    routes = folder / "routes.yaml"
    routes.write_text(json.dumps({"default": GLM, "annotator": annotator}))
    with e2e.started(
        folder,
        MODELS_DIR=str(models),
        ROUTES=str(routes),
        ENGINE_URLS=json.dumps({server.model: f"{server.base}/v1" for server in servers.values()}),
        ENGINE_API_KEY=key,
        RENDER_PROCESSES="1",
        ENGINE_PROCESSES="1",
        LEDGER_HOURS="0",  # what the servers count is compared, request by request
    ) as server:
        yield server


@asynccontextmanager
async def mistral(server: e2e.Server) -> AsyncIterator[Mistral]:
    """Give the unmodified client."""
    async with Mistral(api_key="any", server_url=server.base, timeout_ms=DEADLINE * 1000) as client:
        yield client


async def post(server: e2e.Server, document: bytes, **body: Any) -> httpx.Response:
    """Ask for a document that travels inside the request."""
    inline = {"document": {"document_content": uri(document)}}
    async with httpx.AsyncClient(base_url=server.base, timeout=DEADLINE) as client:
        return await client.post("/v1/ocr", json=inline | body)


async def read(server: e2e.Server, document: bytes, **body: Any) -> Json:
    """Return the answer to a request that must succeed."""
    answer = await post(server, document, **body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def refused(server: e2e.Server, document: bytes, **body: Any) -> tuple[int, Json]:
    """Return status and error of a request that must fail."""
    answer = await post(server, document, **body)
    assert answer.status_code >= 400, answer.text
    error: Json = answer.json()["error"]
    return answer.status_code, error


async def readiness(server: e2e.Server) -> dict[str, str]:
    """Return what ``/readyz`` says of each model's server, by card."""
    async with httpx.AsyncClient(base_url=server.base, timeout=DEADLINE) as client:
        checks = (await client.get("/readyz")).json()["checks"]
    models = {name.removeprefix("model "): checks[name] for name in checks if "model " in name}
    return {name.split(" at ")[0]: said for name, said in models.items()}


def uri(document: bytes) -> str:
    """Return a document as a data URI."""
    return "data:application/octet-stream;base64," + base64.b64encode(document).decode()


SMALL = (298.0, 420.0)
"""A6 in points: a quarter of A4, and so of its time."""


def small_pdf(count: int = 1) -> bytes:
    """Return a PDF of small pages with a line of text each."""
    return samples.text_pdf([f"This is page {number}." for number in range(count)], SMALL)


def picture_pdf() -> bytes:
    """Return a small page with a line of text and two pictures."""
    colours = ((220, 30, 30), (30, 30, 220))
    red, blue = (samples.colour_jpeg((400, 200), colour) for colour in colours)
    places = [(red, (400, 200), (30, 250, 120, 60)), (blue, (400, 200), (30, 40, 120, 60))]
    text = samples.line("Two pictures.", 30, 200)
    return samples.picture_pdf(places, size=SMALL, content=text)
