"""One request under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from model_registry.registry import Choice
from ocr_api.annotate import Form
from ocr_api.documents import Document
from ocr_api.request import Ask, OcrRequest
from ocr_api.result import Page, Result, Usage, Warn
from ocr_api.usage import Entry, Outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request's annotations are made."""

    folds: bool = False
    """The pages' own answers are the annotation."""
    document: Choice | None = None
    """Who fills the document's annotation in a second pass."""
    form: Form | None = None
    """Of the document; None where a prompt alone says what is wanted."""
    guidance: str | None = None
    regions: Choice | None = None
    """Who says what pictures show."""
    region_form: Form | None = None
    warnings: tuple[Warn, ...] = ()

    @property
    def annotates(self) -> bool:
        """Tell whether an annotation was asked for, of the document or of its pictures."""
        return self.folds or self.document is not None or self.regions is not None

    @property
    def by_page(self) -> bool:
        """Tell whether the second pass asks about each page's picture."""
        annotation = self.document.card.annotation if self.document else None
        return annotation is not None and annotation.by != "chat"


@dataclass
class Run:
    """One request under way: what is known before the first page, and what has been read."""

    request: OcrRequest
    choice: Choice
    ask: Ask
    plan: Plan
    document: Document
    indices: list[int]
    """Pages to read, ascending, counted from 0."""
    warnings: tuple[Warn, ...]
    drawing: asyncio.Semaphore
    """Held while a page is drawn: a document with hundreds of pages in work must not have all of
    them wait for the drawing processes before the only page of another."""
    begun: float = field(default_factory=time.perf_counter)
    read: int = 0
    failed: int = 0
    tokens: Usage = field(default_factory=Usage)
    annotation: str | None = None
    """A JSON string; known when the last page was given."""
    annotated: int = 0
    """Pages that an annotation was made of."""
    texts: dict[int, str] = field(default_factory=dict)
    """What stands on pages that were read, by index, until their annotator has taken it."""
    annotating: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    """By the card that annotates: held over each of its questions."""

    def count(self, page: Page) -> None:
        """Add a page to what has been used."""
        self.tokens += page.usage
        if page.error is None:
            self.read += 1
        else:
            self.failed += 1

    def result(self, pages: Iterable[Page]) -> Result:
        """Return the answer made of the pages that were read."""
        return Result(
            id=self.request.id,
            model=self.choice.name,
            card=self.choice.card.id,
            document_bytes=self.document.size,
            pages=tuple(pages),
            warnings=self.warnings,
            annotation=self.annotation,
            usage=self.tokens,
        )

    def entry(self, outcome: Outcome) -> Entry:
        """Return what the request used so far."""
        return Entry(
            request_id=self.request.id,
            model=self.choice.name,
            card=self.choice.card.id,
            outcome=outcome,
            pages=self.read,
            tokens=self.tokens,
            document_bytes=self.document.size,
            seconds=time.perf_counter() - self.begun,
        )
