"""What runs in the child: one JPEG in, its lines of text out.

Why these settings: measured over eight pages in 2026, the classifier of line direction costs
accuracy on upright pages (.981 against .989 of the words) and batches cost 13 % more time and a
quarter more memory. One thread per process, as many processes as cores, reads most pages per
hour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from rapidocr import RapidOCR

from ocr_api.processes import Refusal

MAX_TILT = 0.06
"""Steepest line (rise over run) that gets a level box; a scan is seldom turned by more."""

MAX_ASPECT = 3
"""Longest side over the shorter one of what the engine is given."""

PARAMETERS = {
    "Global.use_cls": False,
    "Global.log_level": "critical",
    # rapidocr's own default; from 0 to 0.7 it changed no word on 14 documents.
    "Global.text_score": 0.5,
    "Rec.rec_batch_num": 1,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}

TALL = 1.5
"""A line so many times higher than wide stands on its side; rapidocr turns it to read it."""
DOUBTFUL = 0.85
"""Confidence below which a page may stand upside down: good print has .97, turned pages .63 to
.72, handwriting .83 (real pages, 2026)."""
SOUND = 0.9
"""Confidence from which on a turned page is believed."""

Line = tuple[str, list[float], float, bool]
"""Text, edges as fractions of the page, confidence, and whether it stands on its side."""

Corners = list[list[float]]
"""Four points in pixels: top left, top right, bottom right, bottom left of a line as it reads."""


def read(header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the lines of a JPEG as JSON: ``[[text, [x0, y0, x1, y1], confidence], …]``.

    Coordinates are fractions of the picture, after it was turned clockwise by ``turned`` degrees
    (in the answer's header), where it could be read only so.

    Raises:
        Refusal: ``no_image`` when the payload is not a picture, ``no_models`` when rapidocr's
            models cannot be loaded.
    """
    del header
    image = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise Refusal("no_image", "the drawn page is not a picture")
    lines, turned = read_upright(image, _lines)
    told = [[text, box, score] for text, box, score, _ in lines]
    return {"turned": turned}, json.dumps(told, ensure_ascii=False).encode()


def read_upright(image: Any, lines_of: Callable[[Any], list[Line]]) -> tuple[list[Line], int]:
    """Return the lines of a page, and the degrees that it was turned clockwise to read them.

    A page is turned only where its lines stand upright on their side, or are doubtful, and where
    the turned page reads well: handwriting is doubtful and stays as it is.
    """
    lines = lines_of(image)
    sideways = _is_sideways(lines)
    if not lines or (not sideways and _confidence(lines) >= DOUBTFUL):
        return lines, 0
    for degrees in (90, 270) if sideways else (180,):
        turned = lines_of(np.ascontiguousarray(np.rot90(image, -degrees // 90)))
        if turned and not _is_sideways(turned) and _confidence(turned) >= SOUND:
            return turned, degrees
    return lines, 0


def _is_sideways(lines: list[Line]) -> bool:
    """Tell whether most letters stand in lines that are much higher than wide."""
    high = sum(len(text) for text, _, _, tall in lines if tall)
    return high > sum(len(text) for text, _, _, _ in lines) / 2


def _confidence(lines: list[Line]) -> float:
    letters = sum(len(text) for text, _, _, _ in lines) or 1
    return sum(score * len(text) for text, _, score, _ in lines) / letters


def _lines(image: Any) -> list[Line]:
    height, width = image.shape[:2]
    found = _engine()(_widened(image))
    return [
        _line(text, corners.tolist(), round(float(score), 4), (width, height))
        for text, corners, score in zip(
            found.txts or (), found.boxes if found.txts else (), found.scores or (), strict=True
        )
    ]


def _line(text: str, corners: Corners, score: float, size: tuple[int, int]) -> Line:
    box = rectangle(corners, *size)
    tall = (box[3] - box[1]) * size[1] > TALL * (box[2] - box[0]) * size[0]
    return text, box, score, tall and len(text) > 1


def _widened(image: Any) -> Any:
    """Return the picture with white at its right or below, if it is a narrow strip.

    rapidocr scales the shorter side up to 736 pixels, whatever the longer one becomes: a strip
    of 60 x 1754 pixels took 2.1 GB and more.
    """
    height, width = image.shape[:2]
    below = max(0, width // MAX_ASPECT - height)
    beside = max(0, height // MAX_ASPECT - width)
    if not below and not beside:
        return image
    white = (255, 255, 255)
    return cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=white)


def rectangle(corners: Corners, width: int, height: int) -> list[float]:
    """Return the upright rectangle of a line in fractions of a picture of that size in pixels.

    A line of a scan that is slightly turned gets the level rectangle that covers it best: its
    bounding box would be twice as high as its letters, and heights tell titles from text. Any
    other line gets its bounding box.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    run, rise = (x1 - x0 + x2 - x3) / 2, (y1 - y0 + y2 - y3) / 2
    if run > 0 and math.fabs(rise) <= MAX_TILT * run:
        edges = [(x0 + x3) / 2, (y0 + y1) / 2, (x1 + x2) / 2, (y2 + y3) / 2]
    else:
        edges = [min(x0, x1, x2, x3), min(y0, y1, y2, y3)]
        edges += [max(x0, x1, x2, x3), max(y0, y1, y2, y3)]
    sizes = (width, height, width, height)
    return [round(edge / size, 5) for edge, size in zip(edges, sizes, strict=True)]


@cache
def _engine() -> Any:
    """Return the engine with its models loaded."""
    cv2.setNumThreads(1)
    try:
        engine = RapidOCR(params=PARAMETERS)
        # Models load with the first picture; a blank one tells a bad installation from a bad page.
        engine(np.full((64, 256, 3), 255, np.uint8))
    except Exception as error:
        raise Refusal("no_models", f"{type(error).__name__}: {error}") from error
    return engine
