"""The shapes of the answer, as types: what `answer` builds and what OpenAPI shows are one thing."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class Corners(TypedDict):
    """A box in pixels of the page's ``dimensions``."""

    top_left_x: int
    top_left_y: int
    bottom_right_x: int
    bottom_right_y: int


class Size(TypedDict):
    """Pixels."""

    width: int
    height: int


class Dimensions(Size):
    """The page as it was drawn for the model."""

    dpi: int


class Tokens(TypedDict):
    """Tokens that the engine counted; 0 from an engine without tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UsageInfo(Tokens):
    """What the request used."""

    pages_processed: int
    pages_reused: int
    """Of those, pages that were kept from an earlier request, or read once for several."""
    doc_size_bytes: int
    reused_tokens: int
    """Tokens of the reused pages, which this request did not use: not in the counts above."""
    wasted_tokens: int
    """Tokens that were used for nothing: of tries that failed, and pages of no use. Nor these."""
    pages_processed_annotation: NotRequired[int]
    """Pages that an annotation was made of, where one was asked for."""


class Warning(TypedDict):  # noqa: A001 - the field's word for it
    """Something that was asked for and not done."""

    code: str
    message: str
    param: str | None


class Image(Corners):
    """A picture on the page; ids are numbered across the document."""

    id: str
    image_base64: str | None
    image_annotation: str | None
    dimensions: Size


class BlockScores(TypedDict):
    """Confidence of a block, 0 to 1."""

    average_content_confidence_score: float | None
    minimum_content_confidence_score: float | None
    block_type_confidence_score: float | None


class Block(Corners):
    """A piece of the page, in reading order; the ids are those of image and table blocks."""

    type: str
    content: str
    confidence_scores: BlockScores | None
    image_id: str | None
    table_id: str | None


class Table(TypedDict):
    """A table that was moved out of the markdown; ``format`` is html or markdown."""

    id: str
    content: str
    format: str


class WordScore(TypedDict):
    """A word that stands in the page's markdown at ``start_index``; confidence is 0 to 1."""

    text: str
    confidence: float
    start_index: int


class PageScores(TypedDict):
    """Confidence of a page's lines, or tokens, 0 to 1."""

    average_page_confidence_score: float
    minimum_page_confidence_score: float
    word_confidence_scores: NotRequired[list[WordScore]]
    """Per word, where that was asked for and the model can tell."""


class Page(TypedDict):
    """One page. ``dimensions`` is null, and ``error`` is not, where the page could not be read."""

    index: int
    markdown: str
    images: list[Image]
    tables: list[Table]
    hyperlinks: list[str]
    header: str | None
    footer: str | None
    dimensions: Dimensions | None
    blocks: list[Block]
    confidence_scores: PageScores | None
    usage: Tokens
    seconds: float
    warnings: list[Warning]
    error: str | None
    reused: bool
    """The page was not read for this request: it was kept from an earlier one."""


class Head(TypedDict):
    """What is known of an answer before its first page."""

    id: str
    object: str
    model: str


class Start(Head):
    """The first event of a stream; ``pages`` are the indices that will come."""

    pages: list[int]


class Totals(Head):
    """The last event of a stream: an answer without its pages."""

    document_annotation: str | None
    usage_info: UsageInfo
    usage: Tokens
    warnings: list[Warning]


class OcrAnswer(Totals):
    """A document that was read."""

    pages: list[Page]
