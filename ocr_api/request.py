"""The waist, first half: what a caller wants read, in words that no door and no engine owns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from model_registry.card import DEFAULT_PROMPT, Card
from ocr_api.result import Warn
from ocr_api.selection import PageSelection

Granularity = Literal["word", "page", "block"]
Lane = Literal["interactive", "background"]


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A document behind an http(s) address, or one of our own signed links."""

    url: str
    param: str = "document.document_url"
    """The field it came in, for errors; so for every source."""

    def key(self) -> str:
        """Return what the document is known by, the same at every try; so of every source."""
        return self.url.partition("?")[0]  # a signature is another one each time


@dataclass(frozen=True, slots=True)
class InlineSource:
    """A document inside the request: a ``data:`` URI or bare base64."""

    text: str
    param: str = "document"

    def key(self) -> str:
        """Return a hash of the document."""
        return sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file that the caller uploaded."""

    file_id: str
    param: str = "document.file_id"

    def key(self) -> str:
        """Return the file's id."""
        return self.file_id


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this machine; only the command line makes one, no door does."""

    path: Path
    param: str = "file"

    def key(self) -> str:
        """Return the path."""
        return str(self.path)


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
    skip_cache: bool = False
    """Read every page anew, and keep none."""

    @property
    def annotates(self) -> bool:
        """Tell whether an annotation is wanted, of the document or of its pictures."""
        schemas = (self.annotation_format, self.region_annotation_format)
        return bool(self.annotation_prompt) or any(one is not None for one in schemas)

    @property
    def wants_pictures(self) -> bool:
        """Tell whether the answer is about pictures: their bytes, or what they show.

        ``want_regions`` alone is not enough: the Mistral SDK sets it always, and weights that
        know where pictures are read print less well (LightOnOCR-2: 80.2 against 83.2 points).
        """
        asked = self.want_images or self.region_annotation_format is not None
        return asked and self.image_limit != 0


@dataclass(frozen=True, slots=True)
class OcrRequest:
    """One document to be read."""

    source: Source
    model: str | None = None
    options: OcrOptions = OcrOptions()
    id: str = ""
    """The request id, carried to logs and engines."""
    timeout: float | None = None
    """Seconds that the request may take; None: as long as the server allows."""
    lane: Lane = "interactive"
    """Somebody waits for the answer, or nobody does."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the model is asked for each page; ``prompt`` None where it takes none."""

    prompt: str | None
    warnings: tuple[Warn, ...] = ()
    native: bool = True
    """The prompt is one that the model was trained on."""
    schema: Mapping[str, Any] | None = None
    """JSON Schema that the answer must fit."""


_SYNONYMS = {"ocr": "document", "text": "document", "chart": "figure"}
_TASKS = ("document", "table", "formula", "figure", "plain", "describe")
"""Words that stand for a task; a card without a prompt for it reads the page as usual."""
_TEMPLATES = ("locate", "extract")
"""Tasks whose prompt has a gap to fill."""
_LOCATE = re.compile(r"locate:\s*(.+)", re.IGNORECASE | re.DOTALL)


def choose_prompt(options: OcrOptions, card: Card) -> Ask:
    """Return the prompt for the pages: annotation prompt > prompt > the card's own.

    With an annotation *format* the annotation prompt guides a second pass and never the pages
    (design, decisions 8 and 9). A word that names a task of the card (``table``, ``formula``,
    ``locate: TEXT``) stands for that task's prompt.
    """
    native = card.prompts.get("document")
    asked, param = options.prompt, "prompt"
    if options.annotation_prompt and not options.annotation_format:
        asked, param = options.annotation_prompt, "document_annotation_prompt"
    if not asked or not asked.strip() or _same(asked, DEFAULT_PROMPT):
        return Ask(native)
    if (trained := _trained_prompt(asked, card)) is not None:
        return Ask(trained)
    if (word := asked.strip().casefold()) in (*_TASKS, *_SYNONYMS):
        plain = _SYNONYMS.get(word, word) == "document"
        said = f"{card.id} has no prompt for {word!r}; the page was read as usual."
        return Ask(native, () if plain else (_warn(param, said),))
    if card.prompt_policy == "native_only":
        return Ask(native, (_warn(param, f"{card.id} takes no prompt; its own was used."),))
    own = strip_control_tokens(asked, card.control_tokens)
    warnings = []
    if own != asked.strip():
        said = f"Control tokens of {card.id} were removed from the prompt."
        warnings.append(Warn("prompt_changed", said, param))
    if not own:
        return Ask(native, tuple(warnings))
    if not card.capabilities.free_prompts:
        reason = f"{card.id} was not trained for free prompts; results may be poor."
        warnings.append(Warn("prompt_untrained", reason, param))
    return Ask(own, tuple(warnings), native=False)


def _trained_prompt(asked: str, card: Card) -> str | None:
    """Return the trained prompt that the caller wrote out, or named by its task."""
    plain = {task: text for task, text in card.prompts.items() if task not in _TEMPLATES}
    if asked.strip() in plain.values():
        return asked.strip()
    word = asked.strip().casefold()
    if task := plain.get(_SYNONYMS.get(word, word)):
        return task
    if (found := _LOCATE.fullmatch(asked.strip())) and "locate" in card.prompts:
        text = strip_control_tokens(found[1], card.control_tokens)
        return card.prompts["locate"].replace("{text}", text)
    return None


def strip_control_tokens(prompt: str, tokens: tuple[str, ...]) -> str:
    """Return the prompt without the model's control tokens, however they were nested."""
    if not tokens:
        return prompt
    pattern = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len)[::-1]))
    prompt = pattern.sub("", prompt)
    if pattern.search(prompt):
        prompt = _without_nested(prompt, tokens)
    return prompt.strip()


def _without_nested(prompt: str, tokens: Iterable[str]) -> str:
    """Return the prompt without tokens that come about where others were taken out.

    Character by character, so that a prompt made of nothing else is done in one pass.
    """
    by_end: dict[str, list[str]] = {}
    for token in sorted(tokens, key=len, reverse=True):
        by_end.setdefault(token[-1], []).append(token)
    kept: list[str] = []
    for character in prompt:
        kept.append(character)
        for token in by_end.get(character, ()):
            if "".join(kept[-len(token) :]) == token:
                del kept[-len(token) :]
                break
    return "".join(kept)


def check_support(options: OcrOptions, card: Card, missing: str | None = None) -> tuple[Warn, ...]:
    """Return a warning for each thing asked for that the card cannot do.

    Args:
        options: what was asked for.
        card: the model that reads.
        missing: the card that would know where pictures are, if only a server ran it.
    """
    can = card.capabilities
    checks = (
        (missing, "include_image_base64", f"needs {missing} to know where pictures are"),
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


def _warn(param: str, message: str) -> Warn:
    return Warn("not_supported", message, param)


def _same(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
