"""What a page process does: count, draw and crop. Runs in the child only.

Documents stay open between tasks, because opening one for every page costs a fifth to a half of
the time of drawing it.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

from PIL import Image

from ocr_api.pages import images, pdf
from ocr_api.pages.sizes import SizeLimits
from ocr_api.processes.child import Refusal

_KEPT_OPEN = 2
_Document = pdf.Pdf | images.Frames
_open: OrderedDict[tuple[str, int, int], _Document] = OrderedDict()

# Pillow turns anticlockwise.
_TURNS = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}

# A level is 1 of 256. Anti-aliased light grey print differs from paper by more than this.
_INK_LEVELS = 24
_INK_PIXELS = 4
_INK_SHARE = 0.000002


def handle(header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Carry out one task of `ocr_api.pages.Pages`.

    Raises:
        Refusal: encrypted, empty, damaged, too_large, missing.
    """
    if header["do"] == "crop":
        return _crop(payload, header)
    document = _document(header["path"], header["type"])
    if header["do"] == "count":
        return {"count": document.count()}, b""
    try:
        return _draw(document, header)
    except Refusal:
        raise
    except Exception:
        document.spent = True  # whatever state it is in
        raise
    finally:
        if document.spent:
            _close(document)


def _draw(document: _Document, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    size = SizeLimits(header["edge"], header["dpi"], header["max_pixels"], header["input_pixels"])
    grey = header["grey"] == "auto"
    image, dpi, pictures = document.draw(header["index"], size, grey=grey)
    jpeg = _encode(image, header["quality"], header["chroma"])
    facts = {"width": image.width, "height": image.height, "dpi": dpi, "pictures": pictures}
    return {**facts, "blank": _is_blank(image, len(jpeg))}, jpeg


def _document(path: str, media_type: str) -> _Document:
    """Return the document, open; it was opened anew if the file changed."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise Refusal("missing") from error
    if stat.st_size == 0:
        raise Refusal("empty")
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key in _open:
        _open.move_to_end(key)
        return _open[key]
    while len(_open) >= _KEPT_OPEN:
        _open.popitem(last=False)[1].close()
    opened = pdf.Pdf(path) if media_type == "application/pdf" else images.Frames(path, media_type)
    _open[key] = opened
    return opened


def _close(document: _Document) -> None:
    for key in [key for key, kept in _open.items() if kept is document]:
        _open.pop(key).close()


def _encode(image: Image.Image, quality: int, chroma: str = "4:2:0") -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=chroma)
    return out.getvalue()


def _is_blank(image: Image.Image, jpeg_bytes: int) -> bool:
    """Return whether no pixel, or nearly none, differs from the paper.

    A page of one colour takes a 64th of a byte per pixel as JPEG, so twice that has ink, and the
    pixels need no look. The rest counts pixels: a page number of one digit has some thirty.
    """
    pixels = image.width * image.height
    if jpeg_bytes > 1024 + pixels // 32:
        return False
    levels = image.convert("L").histogram()
    seen, paper = 0, 0
    while seen + levels[paper] < pixels / 2:
        seen += levels[paper]
        paper += 1
    near = sum(levels[max(0, paper - _INK_LEVELS) : paper + _INK_LEVELS + 1])
    return pixels - near <= max(_INK_PIXELS, pixels * _INK_SHARE)


def _crop(jpeg: bytes, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    parts = []
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as drawn:
        turn = _TURNS.get(header["turned"])
        page = drawn.transpose(turn) if turn is not None else drawn
        for left, top, right, bottom in header["boxes"]:
            x = min(round(left * page.width), page.width - 1)
            y = min(round(top * page.height), page.height - 1)
            x_end = max(x + 1, round(right * page.width))
            y_end = max(y + 1, round(bottom * page.height))
            parts.append(_encode(page.crop((x, y, x_end, y_end)), header["quality"]))
    return {"sizes": [len(part) for part in parts]}, b"".join(parts)
