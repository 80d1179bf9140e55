"""rapidocr on the CPU: PP-OCRv6 models that lie inside its package, run in worker processes.

Why processes: onnxruntime in the service's own process would hold its memory for good, and a
page that makes it abort would end every request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from files_api.kit.errors import EngineUnavailable, PageFailed
from model_registry.card import Card
from ocr_api.engines import Engine, PageTask, Supplies
from ocr_api.processes import (
    ChildDied,
    ChildKilled,
    ChildTimedOut,
    Pool,
    PoolUnavailable,
    TaskRefused,
)
from ocr_api.result import Box, Line, Reading

ENTRY = "ocr_api.engines.rapidocr.child:read"
MEMORY_BYTES = 3 << 30
"""Address space of a child. Over 30 pages of 1754 pixels the peak was 1.8 GB of it (1.1 GB
resident) in 2026, a dense square page among them."""
MAX_LINES = 4000
"""Most lines believed of one page; rapidocr stops at 1000."""
MAX_CHARACTERS = 4000
"""Most characters believed of one line; the recogniser gives about one per 8 pixels."""


class RapidOcr(Engine):
    """Reads pages line by line; takes no prompt and counts no tokens."""

    def __init__(self, supplies: Supplies) -> None:
        self._pool: Pool = supplies.make_pool(ENTRY, MEMORY_BYTES)
        self.places = self._pool.size

    async def read(self, task: PageTask) -> Reading:
        """Return the lines of the page with their boxes and confidences.

        Raises:
            EngineUnavailable: no child can be started, or it cannot load its models.
            PageFailed: the page took too long or too much memory, or the child failed at it;
                where the child died, a fresh one was tried and died too.
        """
        page, seconds = f"Page {task.page.index} (counted from 0)", task.card.page_seconds
        try:
            header, answer = await self._pool.call({}, task.page.jpeg, seconds=seconds)
        except PoolUnavailable as error:
            raise EngineUnavailable(f"The CPU engine cannot start: {error}.") from error
        except ChildTimedOut as error:
            raise PageFailed(f"{page} took longer than {seconds:g} seconds to read.") from error
        except ChildKilled as error:
            raise EngineUnavailable(f"The CPU engine's process was killed: {error}.") from error
        except ChildDied as error:
            raise PageFailed(f"{page} ended the CPU engine's process twice: {error}.") from error
        except TaskRefused as error:
            if error.code == "no_models":
                raise EngineUnavailable(f"The CPU engine cannot start: {error.message}.") from error
            raise PageFailed(f"{page} could not be read: {error}.") from error
        try:
            return Reading(lines=believed(answer), turned=believed_turn(header))
        except ValueError as error:
            raise PageFailed(f"{page} got an answer that makes no sense: {error}.") from error

    async def problem(self, card: Card, url: str | None) -> str | None:
        """Return what has to be installed, or None; imports nothing."""
        del card, url
        missing = [name for name in ("rapidocr", "onnxruntime", "cv2") if find_spec(name) is None]
        if not missing:
            return None
        return f"the CPU engine lacks {', '.join(missing)}; install recto with its extra `cpu`"

    async def close(self) -> None:
        """Give the worker processes back."""
        await self._pool.close()


def believed(answer: bytes) -> tuple[Line, ...]:
    """Return the lines of a child's answer.

    Why checked: a child that decoded a hostile picture may be in somebody else's hands.

    Raises:
        ValueError: the answer is not what a child of ours says.
    """
    try:
        found = json.loads(answer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, list) or len(found) > MAX_LINES:
        raise ValueError(f"it is no list of at most {MAX_LINES} lines")
    return tuple(_line(item) for item in found)


def believed_turn(header: Mapping[str, Any]) -> int:
    """Return the degrees that a child says it turned the page by.

    Raises:
        ValueError: they are no quarter turns.
    """
    turned = header.get("turned", 0)
    if type(turned) is not int or turned not in {0, 90, 180, 270}:
        raise ValueError("it turned the page by something else than quarters")
    return turned


def _line(item: Any) -> Line:
    if not isinstance(item, list) or len(item) != 3:  # noqa: PLR2004 - text, box, confidence
        raise ValueError("a line has three parts")
    text, box, confidence = item
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise ValueError(f"a text is no string of at most {MAX_CHARACTERS} characters")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):  # noqa: PLR2004
        raise ValueError("a box is not four numbers")
    if not _finite(confidence):
        raise ValueError("a confidence is no number")
    return Line(text, Box.of(*box), min(max(float(confidence), 0.0), 1.0))


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
