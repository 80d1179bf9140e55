"""What clients get: the superset of Mistral's and Nebul's OCR answer.

Every key is always there, null where there is nothing: the Python SDK turns an absent nullable
field into a value that is not None, and the TypeScript SDK refuses null lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import orjson
import pybase64

from ocr_api.request import OcrOptions
from ocr_api.result import Block, Page, Region, Result, Usage, replace_marks


def to_wire(result: Result, options: OcrOptions) -> bytes:
    """Return the JSON body of an answer."""
    pages = []
    pictures = 0
    for page in result.pages:
        pages.append(_page(page, options, pictures))
        pictures += len(page.regions)
    usage = _usage(result.usage)
    info: dict[str, Any] = {
        "pages_processed": sum(page.error is None for page in result.pages),
        "doc_size_bytes": result.document_bytes,
        **usage,
    }
    return orjson.dumps(
        {
            "id": f"ocr-{result.id}",
            "object": "ocr",
            "model": result.model,
            "pages": pages,
            "document_annotation": result.annotation,
            "usage_info": info,
            "usage": usage,
            "warnings": [asdict(warning) for warning in result.warnings],
        }
    )


def _page(page: Page, options: OcrOptions, first: int) -> dict[str, Any]:
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
        "usage": _usage(page.usage),
        "warnings": [asdict(warning) for warning in page.warnings],
        "error": page.error,
    }


def _dimensions(page: Page) -> dict[str, int] | None:
    if page.error is not None:
        return None
    return {"dpi": page.dpi, "height": page.height, "width": page.width}


def _image_id(number: int) -> str:
    return f"img-{number}.jpeg"


def _image(region: Region, page: Page, name: str) -> dict[str, Any]:
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


def _corners(pixels: Sequence[int]) -> dict[str, int]:
    left, top, right, bottom = pixels
    return {
        "top_left_x": left,
        "top_left_y": top,
        "bottom_right_x": right,
        "bottom_right_y": bottom,
    }


def _block(block: Block, page: Page, options: OcrOptions, first: int) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "type": block.kind,
        **_corners(block.box.pixels(page.width, page.height)),
        "content": block.text,
        "confidence_scores": None,
    }
    if block.region is not None:
        wire["image_id"] = _image_id(first + block.region)
    if options.confidence == "block" and block.confidence is not None:
        wire["confidence_scores"] = {
            "average_content_confidence_score": block.confidence,
            "minimum_content_confidence_score": block.minimum_confidence,
            "block_type_confidence_score": None,
        }
    return wire


def _page_scores(page: Page, options: OcrOptions) -> dict[str, float] | None:
    if options.confidence is None or not page.confidences:
        return None
    return {
        "average_page_confidence_score": round(fmean(page.confidences), 4),
        "minimum_page_confidence_score": round(min(page.confidences), 4),
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
