"""CPU per page of the pipeline with a model's server, over the bare render and encode loop.

The server is the stand-in for vLLM beside the project, which answers at once, so that what is
left is ours: drawing, base64, HTTP, watching, parsing, assembling. The stand-in's own CPU is not
counted. An answer has 915 tokens in 15 events, as with ``--stream-interval 64``.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import uvloop

from files_api.accounts import LOCAL_ORG_ID, Principal
from ocr_api.app import Workshop
from ocr_api.cli import NoFiles, forget
from ocr_api.request import OcrRequest, PathSource
from ocr_api.settings import Settings
from tests.bench import fake
from tests.bench.pipeline import ROUNDS, bare_seconds
from tests.bench.processes import cpu_seconds, tree_cpu_seconds
from tests.bench.table import Row

CARD = "lightonai/LightOnOCR-2-1B"
"""Draws pages with the longest edge of the bare loop, 1540 pixels."""
EVENTS, CHARACTERS = 15, 3200


def measure(name: str, path: Path, folder: Path) -> list[Row]:
    """Compare both on one document, in turns; medians of the rounds."""
    if not fake.FAKE.is_file():
        print(fake.ABSENT.format(what=f"{name} pages read by a model's server"))
        return []
    bare, ours = [], []
    sizes = ("--stream-chunks", str(EVENTS), "--answer-chars", str(CHARACTERS))
    with fake.running("--model", CARD, *sizes) as (base, pid):
        for _ in range(ROUNDS):
            bare.append(bare_seconds(path))
            ours.append(uvloop.run(_piped(path, folder, base, pid)))
    one, other = statistics.median(ours), statistics.median(bare)
    return [
        Row(
            f"CPU ms per page, {CARD} at a server, 40 {name} pages",
            f"{one * 1000:.1f}",
            f"{other * 1000:.1f}",
            f"{one / other:.2f}",
            "report; 1.15 later",
        )
    ]


async def _piped(path: Path, folder: Path, base: str, server: int) -> float:
    settings = Settings(data_dir=folder / "data", engine_urls={CARD: (f"{base}/v1",)})
    request = OcrRequest(PathSource(path), CARD, id="bench")
    principal = Principal(LOCAL_ORG_ID)
    async with Workshop(settings, NoFiles(), forget) as workshop:
        await workshop.pipeline.run(request, principal)  # starts the children
        begun = _seconds(server)
        result = await workshop.pipeline.run(request, principal)
        taken = _seconds(server) - begun
    assert all(len(page.markdown) > 0.9 * CHARACTERS for page in result.pages)
    return taken / len(result.pages)


def _seconds(server: int) -> float:
    return tree_cpu_seconds(os.getpid()) - cpu_seconds(server)
