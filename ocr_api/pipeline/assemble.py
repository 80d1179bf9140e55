"""What was read becomes a page of the answer: pictures, tables, headers, confidence, doubts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean
from typing import Literal

from ocr_api.markup.confidence import block_scores, page_confidences
from ocr_api.markup.links import hyperlinks
from ocr_api.markup.tables import lift_tables
from ocr_api.pages import DrawnPage
from ocr_api.pipeline.tries import Read
from ocr_api.request import OcrOptions
from ocr_api.result import (
    Block,
    Box,
    Page,
    Parsed,
    Reading,
    Region,
    Table,
    Warn,
    keep_regions,
    plain,
    replace_marks,
)

TableFormat = Literal["markdown", "html"]

LOW_CONFIDENCE = 0.85
"""Mean confidence of lines below which a page is doubtful: good print has .97 and more, turned
pages .63 to .72, handwriting .83 (measured with PP-OCRv6 on real pages, 2026)."""


def with_kept_regions(
    read: Read, options: OcrOptions, *, wanted: bool
) -> tuple[Parsed, tuple[Box, ...]]:
    """Return what was parsed with the pictures that the caller wants, and their boxes."""
    drawn = read.drawn.turned(read.reading.turned)
    boxes = read.parsed.regions
    if boxes is None:
        boxes = drawn.pictures if options.want_regions else ()
    kept: list[int] = []
    if wanted and options.want_regions and options.image_limit != 0:
        kept = [number for number, box in enumerate(boxes) if is_large(box, drawn, options)]
        kept = kept[: options.image_limit]  # the whole document's limit, so no page shows more
    return keep_regions(read.parsed, kept), tuple(boxes[number] for number in kept)


def is_large(box: Box, drawn: DrawnPage, options: OcrOptions) -> bool:
    """Return whether a picture is as large as the caller wants them; never a line or a point."""
    least = max(options.image_min_size or 0, 1)
    left, top, right, bottom = box.pixels(drawn.width, drawn.height)
    return min(right - left, bottom - top) >= least


def limit_regions(page: Page, room: int) -> Page:
    """Return the page with its first ``room`` pictures."""
    if len(page.regions) <= room:
        return page
    blocks = tuple(block for block in page.blocks if block.region is None or block.region < room)
    return replace(page, regions=page.regions[:room], blocks=blocks)


def assemble(read: Read, parsed: Parsed, regions: tuple[Region, ...], options: OcrOptions) -> Page:
    """Return the page as the answer has it."""
    drawn, reading = read.drawn.turned(read.reading.turned), read.reading
    if not options.skip_special_tokens and reading.text:
        parsed = replace(parsed, markdown=plain(reading.text), header=None, footer=None)
    markdown = _with_margins(parsed, options)
    links = hyperlinks(markdown)
    blocks: tuple[Block, ...] = parsed.blocks
    tables: tuple[Table, ...] = ()
    if options.table_format:
        markdown, tables = lift_tables(markdown, options.table_format)
        blocks = tuple(_numbered(parsed.blocks, tables, options.table_format))
    scored = options.confidence is not None and bool(reading.tokens)
    return Page(
        index=drawn.index,
        width=drawn.width,
        height=drawn.height,
        dpi=drawn.dpi,
        markdown=markdown,
        blocks=block_scores(blocks, reading.tokens) if scored else blocks,
        regions=regions,
        tables=tables,
        header=parsed.header if options.extract_header else None,
        footer=parsed.footer if options.extract_footer else None,
        hyperlinks=links,
        confidences=page_confidences(reading.tokens) if scored else parsed.confidences,
        tokens=reading.tokens if options.confidence == "word" else (),
        usage=reading.usage,
        wasted=read.wasted,
        saved=read.saved,
        warnings=(
            *read.warnings(),
            *(parsed.warnings if options.wants_pictures else ()),
            *_doubts(drawn, reading, parsed),
            *_unscored(drawn, reading, options),
        ),
        error=read.failure(),
    )


def _unscored(drawn: DrawnPage, reading: Reading, options: OcrOptions) -> list[Warn]:
    """Return a warning where confidence was asked for and a server gave no probabilities."""
    if options.confidence is None or drawn.blank or reading.tokens or not reading.text:
        return []
    param = "confidence_scores_granularity"
    return [Warn("not_supported", "The model's server gave no token probabilities.", param)]


def _numbered(
    blocks: tuple[Block, ...], tables: tuple[Table, ...], wanted: TableFormat
) -> Iterator[Block]:
    """Yield the blocks; those of tables with the number of the table that they hold."""
    left = dict(enumerate(tables))
    for block in blocks:
        held = lift_tables(block.text, wanted)[1] if block.kind == "table" else ()
        found = next((number for number, table in left.items() if table in held), None)
        if found is None:
            yield block
        else:
            del left[found]
            yield replace(block, table=found)


def _with_margins(parsed: Parsed, options: OcrOptions) -> str:
    """Return the markdown with header and footer in it, unless they are wanted apart."""
    parts = (
        None if options.extract_header else parsed.header,
        parsed.markdown,
        None if options.extract_footer else parsed.footer,
    )
    return "\n\n".join(part for part in parts if part)


def _doubts(drawn: DrawnPage, reading: Reading, parsed: Parsed) -> tuple[Warn, ...]:
    """Return what a reader of the page should know before believing it."""
    doubts = []
    if reading.finish_reason == "length":
        doubts.append(Warn("truncated", "The model stopped at its length limit."))
    if reading.turned:
        said = f"The page was turned clockwise by {reading.turned} degrees to be read."
        doubts.append(Warn("turned", f"{said} Its size and boxes are those of the turned page."))
    text = (parsed.header, replace_marks(parsed.markdown, lambda _: ""), parsed.footer)
    if not drawn.blank and not any(part and part.strip() for part in text):
        doubts.append(Warn("nothing_read", "The page is not blank, and no text was read on it."))
    if parsed.confidences and (mean := fmean(parsed.confidences)) < LOW_CONFIDENCE:
        doubts.append(
            Warn("low_confidence", f"The lines were read with a mean confidence of {mean:.2f}.")
        )
    return tuple(doubts)
