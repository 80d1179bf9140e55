"""Pages per second of the CPU engine through HTTP, over bare rapidocr in as many processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from rapidocr import RapidOCR

from model_registry.card import Render
from ocr_api.engines.rapidocr.child import PARAMETERS
from ocr_api.pages import Pages
from ocr_api.processes import Limits
from ocr_api.settings import cores
from tests.bench import documents, server
from tests.bench.table import Row

PAGES = 12
ROUNDS = 2


def measure(folder: Path) -> Row:
    """Read the same pages both ways, in turns, with warm models; medians of the rounds."""
    document = documents.scans(PAGES)
    path = folder / "engine.pdf"
    path.write_bytes(document)
    drawn = asyncio.run(_draw(path))
    ours, bare = [], []
    spawn = multiprocessing.get_context("spawn")
    with server.running(folder) as (base, _), spawn.Pool(cores()) as pool:
        pool.map(_read, drawn[: cores()], chunksize=1)
        server.read(base, documents.fresh(document), "rapidocr", pages=list(range(cores())))
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            pool.map(_read, drawn, chunksize=1)
            bare.append(PAGES / (time.perf_counter() - begun))
            begun = time.perf_counter()
            server.read(base, documents.fresh(document), "rapidocr")
            ours.append(PAGES / (time.perf_counter() - begun))
    one, other = statistics.median(ours), statistics.median(bare)
    return Row(
        f"CPU engine, pages/s over HTTP, {cores()} processes",
        f"{one:.3f}",
        f"{other:.3f}",
        f"{one / other:.2f}",
        "≥ .95",
    )


async def _draw(path: Path) -> list[bytes]:
    pages = Pages(1, Limits(memory_bytes=2 << 30, seconds=30), 100_000_000)
    try:
        render = Render(edge=1754)
        return [
            (await pages.draw(path, "application/pdf", index, render)).jpeg
            for index in range(PAGES)
        ]
    finally:
        await pages.close()


def _read(jpeg: bytes) -> int:
    """Read one page in this process with bare rapidocr and the engine's own settings."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return len(_bare()(image).txts or ())


@cache
def _bare() -> RapidOCR:
    return RapidOCR(params=PARAMETERS)
