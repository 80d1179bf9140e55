"""What it costs to be watched: CPU of the request path with metrics, and with traces as well.

The same documents go through the front door and the pipeline with the constant engine, in turns:
with all metrics doing nothing, with metrics as they are, and with traces on, too, exported to a
collector in a process of its own. Drawing happens in other processes and is not watched, so that
its time, which differs by more than what is asked for here, is measured once for all and added.
The export is in the time: each turn ends when the last span was sent.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from files_api.accounts import LOCAL_ORG_ID, Principal
from files_api.kit import metrics, traces, web
from ocr_api import meters
from ocr_api.app import Workshop
from ocr_api.offline import NoFiles, forget
from ocr_api.request import OcrRequest, PathSource
from ocr_api.settings import Settings
from tests.bench import documents
from tests.bench.processes import children_cpu_seconds
from tests.bench.table import Row

ROUNDS = 5
PAGES = 80
"""Of each turn: with six spans each, about as many as one export takes (512)."""
LONG = 40
AIM = "< 3 %"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
VARIANTS = ("nothing", "metrics", "traces")


def measure(folder: Path) -> list[Row]:
    """Compare the three on one long document and on many of one page; medians of the rounds."""
    variants = VARIANTS if _has_traces() else VARIANTS[:2]
    rows = []
    for pages in (LONG, 1):
        path = folder / f"{pages}.pdf"
        path.write_bytes(documents.text(pages))
        name = f"documents of {pages} pages" if pages > 1 else "documents of one page"
        rows += asyncio.run(_compare(name, path, PAGES // pages, folder, variants))
    return rows


async def _compare(
    name: str, path: Path, times: int, folder: Path, variants: tuple[str, ...]
) -> list[Row]:
    settings = Settings(data_dir=folder / "data", show_hidden_models=True)
    ours: dict[str, list[float]] = {variant: [] for variant in variants}
    drawing: list[float] = []
    with _collector() as url:
        os.environ[ENDPOINT] = url
        recorder = traces._Recorder("bench") if "traces" in variants else None
        async with Workshop(settings, NoFiles(), forget) as workshop:
            door = web.FrontDoor(_app(workshop, path))
            for number in range(ROUNDS + 1):
                for variant in variants[number % 3 :] + variants[: number % 3]:
                    drawn = children_cpu_seconds(os.getpid())
                    with _watching(variant, recorder):
                        begun = time.process_time()
                        await _ask(door, times)
                        if variant == "traces" and recorder is not None:
                            recorder._provider.force_flush()
                        spent = time.process_time() - begun
                    if number:  # the first round starts the children, and loads what is loaded once
                        ours[variant].append(spent / PAGES * 1000)
                        drawn = children_cpu_seconds(os.getpid()) - drawn
                        drawing.append(drawn / PAGES * 1000)
        if recorder is not None:
            recorder.close(traces.STOP_SECONDS)
    return list(_rows(name, ours, statistics.median(drawing)))


def _rows(name: str, ours: dict[str, list[float]], drawing: float) -> Iterator[Row]:
    bare, *others = ours
    for variant in others:
        # Of turns that stand side by side, since a busy machine changes both alike.
        more = statistics.median(
            one - without for one, without in zip(ours[variant], ours[bare], strict=True)
        )
        whole = statistics.median(ours[bare]) + drawing
        yield Row(
            f"CPU ms per page, {variant} on, {name}, echo, drawing included",
            f"{whole + more:.2f}",
            f"{whole:.2f} (without)",
            f"{more / whole:+.2%}, {more * 1000:+.0f} µs a page",
            AIM,
        )


def _app(workshop: Workshop, path: Path) -> Callable[[Scope, Receive, Send], Any]:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = OcrRequest(PathSource(path), "echo", id="bench")
        result = await workshop.pipeline.run(request, Principal(LOCAL_ORG_ID))
        assert result.pages
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return answer


async def _ask(door: web.FrontDoor, times: int) -> None:
    """Send requests as a server would hand them over, some at a time."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200

    for _ in range(0, times, 8):
        scopes = [
            {"type": "http", "method": "POST", "path": "/v1/ocr", "headers": []}
            for _ in range(min(8, times))
        ]
        await asyncio.gather(*(door(scope, receive, send) for scope in scopes))


@contextmanager
def _watching(variant: str, recorder: traces._Recorder | None) -> Iterator[None]:
    """Watch as the variant says while the block runs."""
    if variant == "nothing":
        with _silent(meters), _silent(metrics):
            yield
        return
    traces._STATE.recorder = recorder if variant == "traces" else None
    try:
        yield
    finally:
        traces._STATE.recorder = None


@contextmanager
def _silent(module: ModuleType) -> Iterator[None]:
    """Let every function of a module do nothing while the block runs."""
    kept = {
        name: one
        for name, one in vars(module).items()
        if callable(one) and getattr(one, "__module__", "") == module.__name__
    }
    try:
        for name in kept:
            setattr(module, name, _nothing)
        yield
    finally:
        for name, one in kept.items():
            setattr(module, name, one)


def _nothing(*args: object, **named: object) -> None:
    """Count nothing."""


@contextmanager
def _collector() -> Iterator[str]:
    """Run something that takes spans and forgets them, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    near, far = spawn.Pipe()
    process = spawn.Process(target=_collect, args=(far,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{near.recv()}"
    finally:
        process.terminate()
        process.join()


def _collect(told: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    told.send(server.server_address[1])
    server.serve_forever()


def _has_traces() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        print("Left out: traces (the extra `otel` is not installed).")
        return False
