"""What clients get: the superset of Mistral's and Nebul's OCR answer.

Every key is always there, null where there is nothing: the Python SDK turns an absent nullable
field into a value that is not None, and the TypeScript SDK refuses null lists.

Why in pieces: with pictures an answer is as large as its document. A page becomes JSON as soon
as it is read, so that its pictures are held once, and not as bytes, base64 and JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import orjson
import pybase64

from files_api.kit.errors import AnswerTooLarge
from ocr_api.apis.mistral import wire
from ocr_api.pipeline import Run
from ocr_api.request import OcrOptions
from ocr_api.result import Block, Page, Region, Usage, Warn, replace_marks


class Answer:
    """Builds the JSON of one answer, page by page."""

    def __init__(self, options: OcrOptions, max_bytes: int) -> None:
        self._options = options
        self._max_bytes = max_bytes
        self._pages: list[bytes] = []
        self._size = 0
        self._images = 0
        self._warnings: set[Warn] = set()

    def add(self, page: Page) -> None:
        """Take the next page.

        Raises:
            AnswerTooLarge: the pages so far are longer than one answer may be.
        """
        piece = orjson.dumps(_page(page, self._options, self._images))
        self._images += len(page.regions)
        self._warnings.update(page.warnings)
        self._size += len(piece)
        if self._size > self._max_bytes:
            raise AnswerTooLarge(param="pages")
        self._pages.append(piece)

    def warned(self, run: Run) -> list[str]:
        """Return the codes of all warnings, each with its field where it has one, once."""
        warnings = [*run.warnings, *self._warnings]
        return sorted({f"{one.code}={one.param}" if one.param else one.code for one in warnings})

    def pieces(self, run: Run) -> list[bytes]:
        """Return the whole answer in pieces, which joined are one JSON object."""
        usage = _tokens(run.tokens)
        before = {"id": f"ocr-{run.request.id}", "object": "ocr", "model": run.choice.name}
        after = {
            "document_annotation": None,
            "usage_info": wire.UsageInfo(
                pages_processed=run.read, doc_size_bytes=run.document.size, **usage
            ),
            "usage": usage,
            "warnings": _warnings(run.warnings),
        }
        pages = [piece for page in self._pages for piece in (b",", page)][1:]
        return [
            orjson.dumps(before)[:-1] + b',"pages":[',
            *pages,
            b"]," + orjson.dumps(after)[1:],
        ]


def _page(page: Page, options: OcrOptions, first: int) -> wire.Page:
    """Return one page; ``first`` is the document-wide number of its first picture."""

    def placeholder(number: int) -> str:
        if number >= len(page.regions):
            return ""
        name = _image_id(first + number)
        return f"![{name}]({name})"

    return {
        "index": page.index,
        "markdown": replace_marks(page.markdown, placeholder),
        "images": [
            _image(region, page, _image_id(first + number))
            for number, region in enumerate(page.regions)
        ],
        "tables": [],
        "hyperlinks": [],
        "header": None,
        "footer": None,
        "dimensions": _dimensions(page),
        "blocks": [_block(block, page, options, first) for block in page.blocks]
        if options.want_blocks
        else [],
        "confidence_scores": _page_scores(page, options),
        "usage": _tokens(page.usage),
        "seconds": round(page.seconds, 3),
        "warnings": _warnings(page.warnings),
        "error": page.error,
    }


def _dimensions(page: Page) -> wire.Dimensions | None:
    if page.error is not None:
        return None
    return {"dpi": page.dpi, "height": page.height, "width": page.width}


def _image_id(number: int) -> str:
    return f"img-{number}.jpeg"


def _image(region: Region, page: Page, name: str) -> wire.Image:
    corners = _corners(region.box.pixels(page.width, page.height))
    encoded = None
    if region.image is not None:
        encoded = "data:image/jpeg;base64," + pybase64.b64encode(region.image).decode("ascii")
    return {
        "id": name,
        **corners,
        "image_base64": encoded,
        "image_annotation": None,
        "dimensions": {
            "width": corners["bottom_right_x"] - corners["top_left_x"],
            "height": corners["bottom_right_y"] - corners["top_left_y"],
        },
    }


def _corners(pixels: Sequence[int]) -> wire.Corners:
    left, top, right, bottom = pixels
    return {
        "top_left_x": left,
        "top_left_y": top,
        "bottom_right_x": right,
        "bottom_right_y": bottom,
    }


def _block(block: Block, page: Page, options: OcrOptions, first: int) -> wire.Block:
    return {
        "type": block.kind,
        **_corners(block.box.pixels(page.width, page.height)),
        "content": block.text,
        "image_id": None if block.region is None else _image_id(first + block.region),
        "confidence_scores": _block_scores(block) if options.confidence == "block" else None,
    }


def _block_scores(block: Block) -> wire.BlockScores | None:
    if block.confidence is None:
        return None
    return {
        "average_content_confidence_score": block.confidence,
        "minimum_content_confidence_score": block.minimum_confidence,
        "block_type_confidence_score": None,
    }


def _page_scores(page: Page, options: OcrOptions) -> wire.PageScores | None:
    if options.confidence is None or not page.confidences:
        return None
    return {
        "average_page_confidence_score": round(fmean(page.confidences), 4),
        "minimum_page_confidence_score": round(min(page.confidences), 4),
    }


def _tokens(usage: Usage) -> wire.Tokens:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _warnings(warnings: Iterable[Warn]) -> list[wire.Warning]:
    return [
        {"code": warning.code, "message": warning.message, "param": warning.param}
        for warning in warnings
    ]
