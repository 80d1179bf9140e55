"""The waist, first half: what a caller wants read, in words that no door and no engine owns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from files_api.kit.errors import AnnotationUnsupported
from model_registry.card import DEFAULT_PROMPT, Card
from ocr_api.result import Warn
from ocr_api.selection import PageSelection

Granularity = Literal["word", "page", "block"]


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A document behind an http(s) address, or one of our own signed links."""

    url: str
    param: str = "document.document_url"
    """The field it came in, for errors; so for every source."""


@dataclass(frozen=True, slots=True)
class InlineSource:
    """A document inside the request: a ``data:`` URI or bare base64."""

    text: str
    param: str = "document"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file that the caller uploaded."""

    file_id: str
    param: str = "document.file_id"


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this machine; only the command line makes one, no door does."""

    path: Path
    param: str = "file"


Source = UrlSource | InlineSource | FileSource | PathSource


@dataclass(frozen=True, slots=True)
class OcrOptions:
    """How the document is to be read. None means that the caller did not say."""

    pages: PageSelection | None = None
    prompt: str | None = None
    annotation_prompt: str | None = None
    annotation_format: Mapping[str, Any] | None = None
    region_annotation_format: Mapping[str, Any] | None = None
    want_regions: bool = False
    """List the pictures on each page."""
    want_images: bool = False
    """Cut the pictures out; where a page has none, the whole page is the picture."""
    want_blocks: bool = False
    image_limit: int | None = None
    """Most pictures in the whole document; 0 means none."""
    image_min_size: int | None = None
    """Least width and height of a picture, in pixels of the drawn page."""
    table_format: Literal["markdown", "html"] | None = None
    extract_header: bool = False
    extract_footer: bool = False
    confidence: Granularity | None = None
    skip_special_tokens: bool = True
    allow_partial: bool = False
    """Answer with the pages that could be read, instead of failing."""

    @property
    def wants_annotation(self) -> bool:
        """Tell whether anything beyond the pages' text was asked for."""
        return bool(
            self.annotation_prompt or self.annotation_format or self.region_annotation_format
        )


@dataclass(frozen=True, slots=True)
class OcrRequest:
    """One document to be read."""

    source: Source
    model: str | None = None
    options: OcrOptions = OcrOptions()
    id: str = ""
    """The request id, carried to logs and engines."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the model is asked for each page; ``prompt`` None where it takes none."""

    prompt: str | None
    warnings: tuple[Warn, ...] = ()


def choose_prompt(options: OcrOptions, card: Card) -> Ask:
    """Return the prompt for the pages: annotation prompt > prompt > the card's own.

    With an annotation *format* the annotation prompt guides a second pass and never the pages
    (design, decisions 8 and 9).
    """
    native = card.prompts.get("document")
    asked, param = options.prompt, "prompt"
    if options.annotation_prompt and not options.annotation_format:
        asked, param = options.annotation_prompt, "document_annotation_prompt"
    if not asked or _same(asked, DEFAULT_PROMPT) or asked in card.prompts.values():
        return Ask(asked if asked and asked in card.prompts.values() else native)
    if not card.prompts or card.prompt_policy == "native_only":
        return Ask(native, (_warn(param, f"{card.id} takes no prompt; its own was used."),))
    own = strip_control_tokens(asked, card.control_tokens)
    if card.capabilities.free_prompts:
        return Ask(own)
    reason = f"{card.id} was not trained for free prompts; results may be poor."
    return Ask(own, (Warn("prompt_untrained", reason, param),))


def strip_control_tokens(prompt: str, tokens: tuple[str, ...]) -> str:
    """Return the prompt without the model's control tokens, however they were nested."""
    if not tokens:
        return prompt
    pattern = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len)[::-1]))
    while (shorter := pattern.sub("", prompt)) != prompt:
        prompt = shorter
    return prompt.strip()


def check_support(options: OcrOptions, card: Card, annotators: list[str]) -> tuple[Warn, ...]:
    """Return a warning for each thing asked for that the card cannot do.

    Args:
        options: what was asked for.
        card: the model that will read.
        annotators: names of models here that can annotate, for the refusal.

    Raises:
        AnnotationUnsupported: an annotation was asked for and the card has none; it is the one
            thing that is refused, because an answer without it would be useless.
    """
    can = card.capabilities
    if options.wants_annotation and not can.annotation:
        others = ", ".join(annotators) or "none of those served here"
        raise AnnotationUnsupported(
            f"{card.id} cannot annotate documents. Models that can: {others}.",
            param=_annotation_param(options),
        )
    checks = (
        (options.want_blocks and not can.blocks, "include_blocks", "gives no layout blocks"),
        (options.table_format and not can.tables, "table_format", "does not tell tables apart"),
        (options.extract_header and not can.headers, "extract_header", "does not find headers"),
        (options.extract_footer and not can.headers, "extract_footer", "does not find footers"),
        (
            options.confidence and options.confidence not in can.confidence,
            "confidence_scores_granularity",
            f"has no confidence per {options.confidence}",
        ),
    )
    return tuple(_warn(param, f"{card.id} {reason}.") for wrong, param, reason in checks if wrong)


def _annotation_param(options: OcrOptions) -> str:
    if options.annotation_prompt:
        return "document_annotation_prompt"
    return "document_annotation_format" if options.annotation_format else "bbox_annotation_format"


def _warn(param: str, message: str) -> Warn:
    return Warn("not_supported", message, param)


def _same(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
