"""How much a server has to do, read from the Prometheus page that vLLM shows at ``/metrics``.

Why no parser: the page has some 200 kB of histograms, it is asked for once a second of each
server, and two lines of it are wanted. (Names and labels: vllm/v1/metrics/loggers.py.)
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus

from files_api.kit.errors import PageFailed
from model_registry.card import Card
from ocr_api.engines import Load
from ocr_api.engines.vllm.wire import BROKEN, Wire, whole

SECONDS = 2.0
"""Longest time of a question: an answer that comes later is about the past."""
QUIET_SECONDS = 60.0
"""A server that says nothing of its load is not asked again for so long."""
_MAX_PAGE_BYTES = 4 << 20
_MOST = 1_000_000
"""No server has so many requests; a count above is a mistake."""

_START = b"\nvllm:num_requests_"
_LINE = re.compile(rb"(running|waiting|waiting_by_reason)\{(.*)\} (\S+)(?: -?\d+)?\s*")
_LABEL = re.compile(rb'(?:^|,)\s*(model_name|reason)="((?:[^"\\]|\\.)*)"')

_Counts = dict[str, int]


class Loads:
    """Asks servers for their load, and remembers which have no answer."""

    def __init__(self, wire: Wire, clock: Callable[[], float] = time.monotonic) -> None:
        self._wire = wire
        self._clock = clock
        self._quiet: dict[str, float] = {}  # until when a server is not asked

    async def ask(self, card: Card, url: str) -> Load | None:
        """Return what the server at a base URL has to do, or None; takes 2 s at most.

        Never raises: whether a server is there at all is another question.
        """
        page = url.rstrip("/").removesuffix("/v1") + "/metrics"
        if self._clock() < self._quiet.get(page, 0.0):
            return None
        try:
            async with asyncio.timeout(SECONDS):
                with closing(await self._wire.get(page, keep=True)) as response:
                    status, said = response.status, await whole(response, _MAX_PAGE_BYTES)
        except (*BROKEN, TimeoutError, ValueError, PageFailed):
            return None
        load = read(said, card.id) if status == HTTPStatus.OK else None
        if load is None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._quiet[page] = self._clock() + QUIET_SECONDS
        return load


def read(page: bytes, model: str) -> Load | None:
    """Return the load of a model in a Prometheus page of vLLM; None where it is not there.

    The processes of a server (label ``engine``) are added up. Of the waiting, those are meant that
    wait for room (reason ``capacity``) where the server tells them apart. A page that names one
    model only is about that one, whatever it is called there: a server with several names for its
    model shows the first.
    """
    models: dict[bytes, _Counts] = defaultdict(dict)
    try:
        for name, key, count in _lines(page):
            counts = models[name]
            counts[key] = counts.get(key, 0) + count
    except (ValueError, OverflowError):
        return None
    counts = models.get(_escaped(model)) or (
        next(iter(models.values())) if len(models) == 1 else {}
    )
    running, waiting = counts.get("running"), counts.get("capacity", counts.get("waiting"))
    if running is None or waiting is None:
        return None
    return Load(running, waiting)


def _lines(page: bytes) -> Iterator[tuple[bytes, str, int]]:
    """Give the model, the kind (``running``, ``waiting``, ``capacity``) and count of each line.

    Raises:
        ValueError, OverflowError: a count is none.
    """
    page = b"\n" + page
    at = page.find(_START)
    while at >= 0:
        begin = at + len(_START)
        end = page.find(b"\n", begin)
        line = _LINE.fullmatch(page, begin, end if end >= 0 else len(page))
        if line:
            labels = dict(_LABEL.findall(line[2]))
            kind = line[1].decode()
            if kind == "waiting_by_reason":
                kind = "capacity" if labels.get(b"reason") == b"capacity" else ""
            if kind:
                yield labels.get(b"model_name", b""), kind, _count(line[3])
        at = page.find(_START, begin)


def _count(text: bytes) -> int:
    count = int(float(text))
    if not 0 <= count <= _MOST:
        raise ValueError("no count")
    return count


def _escaped(model: str) -> bytes:
    """Return a name as it stands in a label (Prometheus' text format)."""
    return model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").encode()
