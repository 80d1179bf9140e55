"""CPU per page of the pipeline with the fake engine, over the bare render and encode loop."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
from pathlib import Path

from files_api.accounts import LOCAL_ORG_ID, Principal
from ocr_api.app import Workshop
from ocr_api.offline import NoFiles, forget
from ocr_api.request import OcrRequest, PathSource
from ocr_api.settings import Settings
from tests.bench.processes import tree_cpu_seconds
from tests.bench.table import Row

EDGE = 1540
ROUNDS = 3


def measure(name: str, path: Path, folder: Path) -> Row:
    """Compare both on one document, in turns; medians of the rounds."""
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(bare_seconds(path))
        ours.append(asyncio.run(_piped(path, folder)))
    one, other = statistics.median(ours), statistics.median(bare)
    return Row(
        f"CPU ms per page, echo, 40 {name} pages",
        f"{one * 1000:.1f}",
        f"{other * 1000:.1f}",
        f"{one / other:.2f}",
        "≤ 1.15",
    )


def bare_seconds(path: Path) -> float:
    """Return CPU seconds per page of the bare loop."""
    # The same allocator settings on both sides, or the bare loop pays page faults that we do not.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000000"}
    env["MALLOC_TRIM_THRESHOLD_"] = "1000000000"
    command = [sys.executable, "-m", "tests.bench.bare", str(path), str(EDGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return float(done.stdout)


async def _piped(path: Path, folder: Path) -> float:
    settings = Settings(data_dir=folder / "data", show_hidden_models=True)
    principal = Principal(LOCAL_ORG_ID)
    request = OcrRequest(PathSource(path), "echo", id="bench")
    async with Workshop(settings, NoFiles(), forget) as workshop:
        await workshop.pipeline.run(request, principal)  # starts the children
        begun = tree_cpu_seconds(os.getpid())
        result = await workshop.pipeline.run(request, principal)
        return (tree_cpu_seconds(os.getpid()) - begun) / len(result.pages)
