"""What clients get: the superset of Mistral's and Nebul's OCR answer.

Every key is always there, null where there is nothing: the Python SDK turns an absent nullable
field into a value that is not None, and the TypeScript SDK refuses null lists.

Why in parts: with pictures an answer is as large as its document. A page becomes JSON as soon
as it is read, so that its pictures are held once, and not as bytes, base64 and JSON. A stream
sends the parts as events, a whole answer is the same parts joined: so they cannot differ.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import orjson
import pybase64

from files_api.kit.errors import AnswerTooLarge
from files_api.kit.room import Hold
from ocr_api.apis.mistral import wire
from ocr_api.markup.confidence import words
from ocr_api.pipeline import Run
from ocr_api.request import OcrOptions
from ocr_api.result import (
    Block,
    Page,
    Region,
    Table,
    Usage,
    Warn,
    replace_marks,
    replace_table_marks,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an answer: an event's name, and its JSON object."""

    event: Literal["start", "page", "done", "error"]
    data: bytes


class Answer:
    """Makes one run's answer, part by part."""

    def __init__(self, run: Run) -> None:
        """Take the run; its pages come later."""
        self._run = run
        self._images = 0
        self._tables = 0
        self._warnings: set[Warn] = set()

    async def parts(self, pages: AsyncIterable[Page]) -> AsyncGenerator[Part, None]:
        """Yield the start, each page, and the totals.

        Raises:
            AppError: what the pages raise.
        """
        run = self._run
        head: wire.Head = {"id": f"ocr-{run.request.id}", "object": "ocr", "model": run.choice.name}
        start: wire.Start = {**head, "pages": run.indices}
        yield Part("start", orjson.dumps(start))
        async for page in pages:
            yield Part("page", self._add(page))
        yield Part("done", orjson.dumps(_totals(run, head)))

    def _add(self, page: Page) -> bytes:
        piece = orjson.dumps(_page(page, self._run.request.options, self._images, self._tables))
        self._images += len(page.regions)
        self._tables += len(page.tables)
        self._warnings.update(page.warnings)
        return piece

    def warned(self) -> list[str]:
        """Return the codes of all warnings so far, each with its field where it has one, once."""
        warnings = [*self._run.warnings, *self._warnings]
        return sorted({f"{one.code}={one.param}" if one.param else one.code for one in warnings})


async def joined(parts: AsyncIterable[Part], max_bytes: int, hold: Hold) -> list[bytes]:
    """Return the whole answer in pieces, which joined are one JSON object.

    Args:
        parts: all of them, in order.
        max_bytes: longest answer, counted over its pages.
        hold: what the pages hold of the room for answers.

    Raises:
        AnswerTooLarge: the pages so far are longer than one answer may be.
        RateLimited, Overloaded: there is no room for more.
    """
    pages: list[bytes] = []
    size, totals = 0, b"{}"
    async for part in parts:
        if part.event == "page":
            size += len(part.data)
            if size > max_bytes:
                raise AnswerTooLarge(param="pages")
            hold.take(len(part.data))
            pages += (b",", part.data)
        else:
            totals = part.data  # at last those of "done"
    return [totals[:-1] + b',"pages":[', *pages[1:], b"]}"]


def _totals(run: Run, head: wire.Head) -> wire.Totals:
    usage = _tokens(run.tokens)
    counted: wire.UsageInfo = {
        "pages_processed": run.read,
        "pages_reused": run.reused,
        "doc_size_bytes": run.document.size,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "reused_tokens": _tokens(run.saved)["total_tokens"],
        "wasted_tokens": _tokens(run.wasted)["total_tokens"],
    }
    if run.plan.annotates:
        counted["pages_processed_annotation"] = run.annotated
    return {
        **head,
        "document_annotation": run.annotation,
        "usage_info": counted,
        "usage": usage,
        "warnings": _warnings(run.warnings),
    }


def _page(page: Page, options: OcrOptions, first: int, first_table: int) -> wire.Page:
    """Return one page; ``first`` and ``first_table`` are document-wide numbers.

    They are those of the page's first picture and of its first table.
    """
    markdown = _placed(page, first, first_table)
    scores = _page_scores(page, options)
    if scores is not None and options.confidence == "word":
        scores["word_confidence_scores"] = [
            {"text": word.text, "confidence": round(word.confidence, 4), "start_index": word.start}
            for word in words(markdown, page.tokens)
        ]
    return {
        "index": page.index,
        "markdown": markdown,
        "images": [
            _image(region, page, _image_id(first + number))
            for number, region in enumerate(page.regions)
        ],
        "tables": [
            {
                "id": _table_id(first_table + number, table),
                "content": _with_pictures(table.content, page, first),
                "format": table.format,
            }
            for number, table in enumerate(page.tables)
        ],
        "hyperlinks": list(page.hyperlinks),
        "header": page.header,
        "footer": page.footer,
        "dimensions": _dimensions(page),
        "blocks": [_block(block, page, options, first, first_table) for block in page.blocks]
        if options.want_blocks
        else [],
        "confidence_scores": scores,
        "usage": _tokens(page.usage),
        "seconds": round(page.seconds, 3),
        "warnings": _warnings(page.warnings),
        "error": page.error,
        "reused": page.reused,
    }


def _placed(page: Page, first: int, first_table: int) -> str:
    """Return the markdown with links in place of its marks."""

    def table(number: int) -> str:
        if number >= len(page.tables):
            return ""
        name = _table_id(first_table + number, page.tables[number])
        return f"[{name}]({name})"

    return replace_table_marks(_with_pictures(page.markdown, page, first), table)


def _with_pictures(text: str, page: Page, first: int) -> str:
    """Return the text with a link in place of each mark of a picture."""

    def picture(number: int) -> str:
        if number >= len(page.regions):
            return ""
        name = _image_id(first + number)
        return f"![{name}]({name})"

    return replace_marks(text, picture)


def _table_id(number: int, table: Table) -> str:
    return f"tbl-{number}.{'md' if table.format == 'markdown' else 'html'}"


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
        "image_annotation": region.annotation,
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


def _block(
    block: Block, page: Page, options: OcrOptions, first: int, first_table: int
) -> wire.Block:
    table = block.table
    return {
        "type": block.kind,
        **_corners(block.box.pixels(page.width, page.height)),
        "content": block.text,
        "image_id": None if block.region is None else _image_id(first + block.region),
        "table_id": None if table is None else _table_id(first_table + table, page.tables[table]),
        "confidence_scores": _block_scores(block) if options.confidence == "block" else None,
    }


def _block_scores(block: Block) -> wire.BlockScores | None:
    if block.confidence is None:
        return None
    return {
        "average_content_confidence_score": round(block.confidence, 4),
        "minimum_content_confidence_score": None
        if block.minimum_confidence is None
        else round(block.minimum_confidence, 4),
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
