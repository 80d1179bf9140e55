"""The story of a document: resolve, choose pages, draw, read, parse, annotate, assemble.

Pages flow through a window of a fixed few, in order, so that memory does not grow with the
document; whoever stops taking pages stops the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
)
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from functools import partial

from files_api.accounts import Principal
from files_api.kit import errors, named
from files_api.kit.tasks import finished
from model_registry.registry import Choice, Registry
from ocr_api import meters, stages
from ocr_api.documents import Document, Documents
from ocr_api.engines import Engine
from ocr_api.ledger import Ledger
from ocr_api.pages import Pages
from ocr_api.parsers import Parser
from ocr_api.pipeline.annotation import Annotations, without_crops
from ocr_api.pipeline.assemble import assemble, is_large, limit_regions, with_kept_regions
from ocr_api.pipeline.choosing import choose
from ocr_api.pipeline.order import Started, in_order, in_turn
from ocr_api.pipeline.outcomes import blames_the_target, outcome_of
from ocr_api.pipeline.readings import Readings
from ocr_api.pipeline.run import Run
from ocr_api.pipeline.shadows import Shadows
from ocr_api.pipeline.stops import Stop, Stops
from ocr_api.pipeline.tries import Read, Tries
from ocr_api.request import InlineSource, Lane, OcrOptions, OcrRequest, check_support
from ocr_api.result import WHOLE_PAGE, Box, Page, Parsed, Region, Result
from ocr_api.scheduler import Scheduler, Share, Ticket
from ocr_api.usage import Entry, Outcome

__all__ = ["Pipeline", "RequestLimits", "Run", "in_order"]

_WINDOW_FACTOR, _WINDOW_BASE = 4, 16
Recorder = Callable[[Principal, Entry], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may take."""

    pages: int = 1000
    seconds: float = 3600.0


class Pipeline:
    """Reads documents."""

    def __init__(
        self,
        registry: Registry,
        engines: Mapping[str, Engine],
        documents: Documents,
        pages: Pages,
        record: Recorder,
        scheduler: Scheduler,
        ledger: Ledger | None = None,
        limits: RequestLimits | None = None,
    ) -> None:
        """Take the parts; without a ledger every page is read anew."""
        self._registry = registry
        self._engines = engines
        self._documents = documents
        self._pages = pages
        self._record = record
        self._scheduler = scheduler
        self._limits = limits or RequestLimits()
        # Of every card: another routes file may name those that nothing runs now.
        parsers = {card.parser: _parser(card.parser) for card in registry.every_card()}
        self._readings = Readings(ledger, Tries(pages, engines, parsers))
        self._shadows = Shadows(registry, engines, parsers, pages, scheduler)
        self._annotations = Annotations(registry, engines)
        self._stops = Stops()

    async def run(self, request: OcrRequest, principal: Principal) -> Result:
        """Return the whole document.

        Raises:
            AppError: the request, the document, or a page of it is at fault.
        """
        with self.enter(principal, request.lane):
            async with self.open(request, principal) as run, aclosing(self.pages(run)) as stream:
                return run.result([page async for page in stream])

    def enter(
        self, principal: Principal, lane: Lane = "interactive"
    ) -> AbstractContextManager[None]:
        """Count one open request while the block runs; a door begins it before the body comes.

        Raises:
            RateLimited, Overloaded: there is no room for one more.
        """
        return self._scheduler.enter(_share(principal, lane))

    def files(self) -> set[str]:
        """Return the ids of the stored files that are read now, also in the background."""
        return self._stops.files() | self._shadows.files()

    async def file_gone(self, _principal: Principal | None, file_id: str) -> None:
        """End the requests that read a file: it is about to be deleted, or is so already."""
        self._stops.gone(file_id)
        self._shadows.gone(file_id)

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._shadows.close()

    @asynccontextmanager
    async def open(self, request: OcrRequest, principal: Principal) -> AsyncIterator[Run]:
        """Resolve a request into a run; on leaving, write what it used.

        The request itself is counted by who opens it, with `enter`.

        Raises:
            AppError: the model, the options or the document is at fault, or there is no room for
                its pages; nothing was read.
        """
        param, most = request.source.param, self._limits.seconds
        stop = Stop(min(request.timeout or most, most))
        async with AsyncExitStack() as stack:
            stack.enter_context(_naming(param))
            async with stop.limit():
                run = await self._resolve(request, principal, stop, stack)
            del request  # it holds a document that came inside, which is on disk now
            outcome: Outcome = "cancelled"
            try:
                yield run
                outcome = "partial" if run.failures else "ok"
            except Exception:
                outcome = "failed"
                raise
            finally:
                # A caller that left must not take its usage row with it.
                await finished(self._close(run, outcome))

    async def _resolve(
        self, request: OcrRequest, principal: Principal, stop: Stop, stack: AsyncExitStack
    ) -> Run:
        """Return the run of a request; the stack gets what must be given back after it."""
        options = request.options
        choice = await choose(self._registry, request, principal)
        plan, ask = await self._annotations.plan(options, choice, principal.org_id)
        warnings = (*check_support(options, choice.card, choice.missing), *ask.warnings)
        with stages.stage("fetch", choice.card.id):
            opened = self._documents.open(request.source, principal)
            document = await stack.enter_async_context(opened)
        stack.enter_context(self._stops.reading(document.file_id, stop))
        indices = await self._choose_pages(document, options, principal.org_id)
        keys = await self._readings.keys(principal, document, choice.card, ask, options, indices)
        share, missing = _share(principal, request.lane), len(indices) - len(keys.known)
        ticket = self._admitted(stack, share, choice, missing)
        run = Run(
            request=replace(request, source=InlineSource("", request.source.param)),
            choice=choice,
            ask=ask,
            plan=plan,
            document=document,
            indices=indices,
            warnings=(*warnings, *plan.warnings),
            principal=principal,
            keys=keys,
            ticket=ticket,
            stop=stop,
            drawing=asyncio.Semaphore(self._pages.places + 1),
        )
        stack.enter_context(self._readings.reading(run))
        return run

    async def _close(self, run: Run, outcome: Outcome) -> None:
        if outcome == "failed":
            # Its client comes back for what is missing, perhaps to another process.
            await self._readings.flush()
        entry = run.entry(outcome)
        run.tell(entry)
        await self._record(run.principal, entry)

    def _admitted(self, stack: AsyncExitStack, share: Share, choice: Choice, pages: int) -> Ticket:
        """Take on a document until the stack ends; note pages that no server can be asked for."""
        try:
            return stack.enter_context(
                self._scheduler.admit(share, choice.card, choice.named, pages)
            )
        except errors.EngineUnavailable:
            self._registry.steering.note(choice, "error", pages)
            raise

    async def pages(self, run: Run) -> AsyncGenerator[Page, None]:
        """Yield the pages of a run in document order, at most a window of them at work.

        When the last page was given, the run's annotation is known. Where a page fails and the
        caller wants all or nothing, no more pages are given, but the rest is read and kept before
        the error comes, so that another try pays for the failed page alone.

        Raises:
            AppError: a page, or the annotation, failed and the caller did not allow a partial
                answer; the time is over; the file was deleted.
        """
        work = in_turn(run.indices, partial(self._page, run), self._window(run))
        notes = self._annotations.notes(run)
        all_or_nothing = not run.request.options.allow_partial
        room = run.request.options.image_limit
        async with aclosing(work) as stream:
            while True:
                async with run.stop.limit():
                    if (page := await anext(stream, None)) is None or run.give_up():
                        break
                    kept = await self._limited(run, page, room)
                if run.failures and all_or_nothing:
                    continue
                room = None if room is None else room - len(kept.regions)
                notes.add(kept)
                yield kept
            if run.failures and all_or_nothing:
                raise run.failure()
        async with run.stop.limit():
            await notes.finish()

    async def _limited(self, run: Run, page: Page, room: int | None) -> Page:
        """Return a page with the pictures that its document has room for."""
        if room is None:
            return page
        kept = limit_regions(page, room)
        # Only now it is known which pictures are left.
        asked = await self._annotations.pictures(run, kept)
        run.tokens += asked.usage - kept.usage
        run.wasted += asked.wasted - kept.wasted
        return without_crops(asked, run.request.options)

    def _window(self, run: Run) -> int:
        """Return how many pages may be at work, or done and not yet given, for a slow one before.

        Pages are some kilobytes each; with pictures some hundred.
        """
        card, servers = run.choice.card, max(1, len(run.choice.urls))
        places = self._engines[card.engine].places or card.pages_in_flight * servers
        pictures = run.request.options.want_images or run.plan.regions is not None
        factor = 1 if pictures else _WINDOW_FACTOR
        return factor * places + _WINDOW_BASE

    async def _choose_pages(self, document: Document, options: OcrOptions, owner: str) -> list[int]:
        count = await self._pages.count(document.path, document.media_type, owner=owner)
        if options.pages is not None:
            chosen = options.pages.choose(count)
        elif count > self._limits.pages:
            raise errors.TooManyPages(
                f"The document has {count} pages; one request may read {self._limits.pages}. "
                "Select some with `pages`.",
                param="pages",
            )
        else:
            chosen = list(range(count))
        if len(chosen) > self._limits.pages:
            raise errors.TooManyPages(param="pages")
        return chosen

    async def _page(self, run: Run, index: int, started: Started) -> Page:
        """Return a page, or one that says why there is none; count it."""
        begun = time.perf_counter()
        outcome: meters.Outcome = "cancelled"
        try:
            with stages.Total(run.choice.card.id, index) as total:
                page = await self._page_or_error(run, index, total.then(started))
                outcome = "failed" if page.error else "reused" if page.reused else "ok"
                total.done(outcome, run.failures.get(index))
        finally:
            meters.page(run.choice.card.id, outcome)
        run.count(page)
        return replace(page, seconds=time.perf_counter() - begun)

    async def _page_or_error(self, run: Run, index: int, started: Started) -> Page:
        """Return a page, or one that says why there is none; the run knows the error."""
        try:
            page = await self._read_page(run, index, started)
        except errors.AppError as error:
            run.failures[index] = error
            return Page(index, 0, 0, 0, error=error.message)
        if page.error is not None:
            run.failures[index] = errors.PageFailed(page.error)
        return page

    async def _read_page(self, run: Run, index: int, started: Started) -> Page:
        """Draw, read, parse, annotate: the life of one page."""
        with ExitStack() as held:
            read, reused = await self._get(run, index, started, held)
            spent = Page(index, 0, 0, 0, usage=read.reading.usage, wasted=read.wasted)
            page = replace(spent, saved=read.saved, reused=reused)
            try:
                with stages.stage("post", run.choice.card.id, index, before=read.parsing):
                    page = await self._assembled(run, read, reused=reused)
                if page.error is None:
                    page = await self._annotations.page(run, read, page)
                if page.error is None and run.request.options.image_limit is None:
                    page = await self._annotations.pictures(run, page)
                    page = without_crops(page, run.request.options)
            except BaseException:
                run.lost(page)
                raise
            return page

    async def _get(
        self, run: Run, index: int, started: Started, held: ExitStack
    ) -> tuple[Read, bool]:
        """Return a page and whether it was read before; note how its target did."""
        with self._shadows.watch(run, index, run.keys.by_page.get(index)) as watched:
            try:
                read, reused = await self._readings.get(run, index, watched.then(started), held)
            except errors.AppError as error:
                if blames_the_target(error) and run.may_judge():
                    self._registry.steering.note(run.choice, "error", 1)
                raise
            if not reused:
                watched.answered(read)
        outcome = None if reused else outcome_of(read)
        if outcome is not None and run.may_judge():
            self._registry.steering.note(run.choice, outcome, 1)
        return read, reused

    async def _assembled(self, run: Run, read: Read, *, reused: bool) -> Page:
        options = run.request.options
        # A page that was not read has no size in the answer, so that boxes would mean nothing.
        parsed, boxes = with_kept_regions(read, options, wanted=read.bad is None)
        regions = await self._regions(run, read, parsed, boxes)
        return replace(assemble(read, parsed, regions, options), reused=reused)

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
        owner = run.principal.org_id
        crops = await self._pages.crop(read.drawn.jpeg, boxes, turned=turned, owner=owner)
        return tuple(Region(box, crop) for box, crop in zip(boxes, crops, strict=True))


def _share(principal: Principal, lane: Lane) -> Share:
    weight = principal.limits.weight
    if weight is None:
        return Share(principal.org_id, lane=lane)
    return Share(principal.org_id, weight, lane)


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
