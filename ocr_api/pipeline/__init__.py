"""The story of a document: resolve, choose pages, draw, read, parse, annotate, assemble.

Pages flow through a window of a fixed few, in order, so that memory does not grow with the
document; whoever stops taking pages stops the work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, replace

from files_api.accounts import Principal
from files_api.kit import errors, named
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from model_registry.registry import Choice, Registry, UnknownModelError, UnservedModelError
from ocr_api.documents import Document, Documents
from ocr_api.engines import Engine
from ocr_api.pages import Pages
from ocr_api.parsers import Parser
from ocr_api.pipeline.annotation import Annotations, without_crops
from ocr_api.pipeline.assemble import assemble, is_large, limit_regions, with_kept_regions
from ocr_api.pipeline.order import in_order
from ocr_api.pipeline.replicas import PAUSES
from ocr_api.pipeline.run import Run
from ocr_api.pipeline.tries import Read, Tries
from ocr_api.request import OcrOptions, OcrRequest, check_support
from ocr_api.result import WHOLE_PAGE, Box, Page, Parsed, Region, Result
from ocr_api.usage import Entry, Outcome

__all__ = ["Pipeline", "Run", "in_order"]

Recorder = Callable[[Principal, Entry], Awaitable[None]]


class Pipeline:
    """Reads documents."""

    def __init__(
        self,
        registry: Registry,
        engines: Mapping[str, Engine],
        documents: Documents,
        pages: Pages,
        record: Recorder,
        max_pages: int,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._registry = registry
        self._engines = engines
        self._documents = documents
        self._pages = pages
        self._record = record
        self._max_pages = max_pages
        parsers = {card.parser: _parser(card.parser) for card in registry.cards()}
        self._tries = Tries(pages, engines, parsers, pauses)
        self._annotations = Annotations(registry, engines, pauses)

    async def run(self, request: OcrRequest, principal: Principal) -> Result:
        """Return the whole document.

        Raises:
            AppError: the request, the document, or a page of it is at fault.
        """
        async with self.open(request, principal) as run, aclosing(self.pages(run)) as stream:
            return run.result([page async for page in stream])

    @asynccontextmanager
    async def open(self, request: OcrRequest, principal: Principal) -> AsyncIterator[Run]:
        """Resolve a request into a run; on leaving, write what it used.

        Raises:
            AppError: the model, the options or the document is at fault; nothing was read.
        """
        options = request.options
        choice = self.choose(request.model, principal, pictures=options.wants_pictures)
        plan, ask = await self._annotations.plan(options, choice, principal.org_id)
        warnings = (
            *check_support(options, choice.card, choice.missing),
            *ask.warnings,
            *plan.warnings,
        )
        async with self._documents.open(request.source, principal) as document:
            with _naming(request.source.param):
                indices = await self._choose_pages(document, options)
            drawing = asyncio.Semaphore(self._pages.places + 1)
            run = Run(request, choice, ask, plan, document, indices, warnings, drawing)
            outcome: Outcome = "cancelled"
            try:
                with _naming(request.source.param):
                    yield run
                outcome = "partial" if run.failed else "ok"
            except Exception:
                outcome = "failed"
                raise
            finally:
                # A caller that left must not take its usage row with it.
                await finished(self._note(principal, run.entry(outcome)))

    async def _note(self, principal: Principal, entry: Entry) -> None:
        """Write the usage row; an answer that is ready is not thrown away for want of it."""
        try:
            await self._record(principal, entry)
        except errors.AppError as error:
            facts = {**asdict(entry), "org": principal.org_id, "code": error.code}
            log(__name__, "usage_lost", level=logging.ERROR, **facts)

    def choose(self, name: str | None, principal: Principal, *, pictures: bool = False) -> Choice:
        """Return who answers to a public name; where pictures are wanted, who says where they are.

        Raises:
            ModelUnknown, ModelUnavailable: nobody does.
        """
        try:
            return self._registry.choose(name, principal.org_id, pictures=pictures)
        except UnknownModelError as error:
            raise errors.ModelUnknown(str(error), param="model") from error
        except UnservedModelError as error:
            raise errors.ModelUnavailable(str(error), param="model") from error

    async def pages(self, run: Run) -> AsyncGenerator[Page, None]:
        """Yield the pages of a run in document order, at most a window of them in work.

        When the last page was given, the run's annotation is known.

        Raises:
            AppError: a page, or the annotation, failed and the caller did not allow a partial
                answer.
        """
        room = run.request.options.image_limit
        work = in_order(run.indices, lambda index: self._page(run, index), self._window(run))
        notes = self._annotations.notes(run)
        async with aclosing(work) as stream:
            async for page in stream:
                kept = page if room is None else limit_regions(page, room)
                room = None if room is None else room - len(kept.regions)
                if room is not None:
                    # Only now it is known which pictures are left.
                    kept = await self._annotations.pictures(run, kept)
                kept = without_crops(kept, run.request.options)
                run.count(kept)
                notes.add(kept)
                yield kept
        await notes.finish()

    def _window(self, run: Run) -> int:
        """Return how many pages of the document may be in work.

        An engine with few places gets one page more than it can read at once, so that a small
        document need not wait behind many pages of a large one.
        """
        card = run.choice.card
        places = self._engines[card.engine].places
        return card.pages_in_flight if places is None else min(card.pages_in_flight, places + 1)

    async def _choose_pages(self, document: Document, options: OcrOptions) -> list[int]:
        count = await self._pages.count(document.path, document.media_type)
        if options.pages is not None:
            chosen = options.pages.choose(count)
        elif count > self._max_pages:
            raise errors.TooManyPages(
                f"The document has {count} pages; one request may read {self._max_pages}. "
                "Select some with `pages`.",
                param="pages",
            )
        else:
            chosen = list(range(count))
        if len(chosen) > self._max_pages:
            raise errors.TooManyPages(param="pages")
        return chosen

    async def _page(self, run: Run, index: int) -> Page:
        try:
            page = await self._read_page(run, index)
        except errors.AppError as error:
            if not run.request.options.allow_partial:
                raise
            return Page(index, 0, 0, 0, error=error.message)
        if page.error is not None and not run.request.options.allow_partial:
            run.tokens += page.usage
            raise errors.PageFailed(page.error)
        return page

    async def _read_page(self, run: Run, index: int) -> Page:
        """Draw, read, parse, annotate: the life of one page."""
        begun = time.perf_counter()
        options = run.request.options
        read = await self._tries.read(run, index)
        # A page that was not read has no size in the answer, so that boxes would mean nothing.
        parsed, boxes = with_kept_regions(read, options, wanted=read.bad is None)
        regions = await self._regions(run, read, parsed, boxes)
        page = assemble(read, parsed, regions, options)
        if page.error is None:
            page = await self._annotations.page(run, read, page)
            if options.image_limit is None:
                page = await self._annotations.pictures(run, page)
                page = without_crops(page, options)
        return replace(page, seconds=time.perf_counter() - begun)

    async def _regions(
        self, run: Run, read: Read, parsed: Parsed, boxes: tuple[Box, ...]
    ) -> tuple[Region, ...]:
        options, turned = run.request.options, read.reading.turned
        cut = options.image_limit != 0 and read.bad is None
        if not cut or not (options.want_images or run.plan.regions):
            return tuple(Region(box) for box in boxes)
        # A page without pictures of its own is the picture, as Nebul's "page images".
        whole = options.want_images and parsed.regions is None and not boxes
        if whole and is_large(WHOLE_PAGE, read.drawn.turned(turned), options):
            boxes = (WHOLE_PAGE,)
        crops = await self._pages.crop(read.drawn.jpeg, boxes, turned=turned)
        return tuple(Region(box, crop) for box, crop in zip(boxes, crops, strict=True))


def _parser(name: str) -> Parser:
    return named.leaf("ocr_api.parsers", name, Parser)()  # type: ignore[type-abstract]


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """Let the errors of a document name the request's field that it came in."""
    try:
        yield
    except errors.AppError as error:
        if isinstance(error, errors.InvalidRequest):
            error.param = error.param or param
        raise
