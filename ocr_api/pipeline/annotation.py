"""Who annotates, what is asked, and what comes of it (design, decision 8).

The Nebul way: an annotation prompt alone is what the model is asked for each page, and its
answers are folded into one. The Mistral way: the pages are read as usual, and a schema is filled
in a second pass, page by page or over the whole document, by the model itself or by the routes'
annotator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from files_api.kit.errors import AnnotationUnsupported, AppError
from model_registry.card import Card
from model_registry.registry import Choice, Registry
from ocr_api import stages
from ocr_api.annotate.annotator import Annotator, judged
from ocr_api.annotate.form import Form, accept
from ocr_api.annotate.merge import NotJson, dump, parse_exact
from ocr_api.annotate.prompts import schema_prompt
from ocr_api.engines import Engine, Question
from ocr_api.markup.notation import without_end_tokens
from ocr_api.pipeline.notes import Notes
from ocr_api.pipeline.order import in_order
from ocr_api.pipeline.run import Plan, Run
from ocr_api.pipeline.tries import Read
from ocr_api.request import Ask, OcrOptions, choose_prompt, strip_control_tokens
from ocr_api.result import Page, Reading, Region, Usage, Warn, plain, replace_marks

REGIONS_AT_ONCE = 4
"""Pictures of one page that are annotated at a time."""
LEAST_EDGE, MOST_STRETCH = 8, 200
"""Pixels of a picture's short edge, and long edge over short edge, beyond which servers refuse it
(Qwen's ``smart_resize`` in transformers refuses more than 200; a patch has 14 pixels and more)."""

_PROMPT, _FORMAT, _REGIONS = (
    "document_annotation_prompt",
    "document_annotation_format",
    "bbox_annotation_format",
)


class Annotations:
    """Plans and makes the annotations of requests."""

    def __init__(self, registry: Registry, engines: Mapping[str, Engine]) -> None:
        self._registry = registry
        self._engines = engines

    async def plan(self, options: OcrOptions, choice: Choice, key: str) -> tuple[Plan, Ask]:
        """Return how the request is annotated, and what its pages are asked.

        Args:
            options: what the caller asked for.
            choice: who reads the pages.
            key: chooses among an annotator's targets.

        Raises:
            AnnotationUnsupported: nobody here can annotate; the one thing that is refused,
                because an answer without it would be useless.
            ValidationFailed, SchemaRefused: a schema is none.
        """
        if not options.annotates:
            return self._plan(options, choice, key)
        # In a thread: a large schema takes some tenths of a second.
        return await asyncio.to_thread(self._plan, options, choice, key)

    def _plan(self, options: OcrOptions, choice: Choice, key: str) -> tuple[Plan, Ask]:
        ask = choose_prompt(options, choice.card)
        plan = Plan()
        if options.annotation_format is not None:
            guidance = options.annotation_prompt
            who = self._who(choice, key, _FORMAT)
            form = _form(options.annotation_format, who.card, _FORMAT, guidance)
            plan = Plan(document=who, form=form, guidance=guidance)
        elif options.annotation_prompt:
            plan, ask = self._by_prompt(options, choice, key, ask)
        if options.region_annotation_format is not None and options.image_limit != 0:
            who = self._who(choice, key, _REGIONS, image=True)
            form = _form(options.region_annotation_format, who.card, _REGIONS)
            plan = replace(plan, regions=who, region_form=form)
        return replace(plan, warnings=tuple(_doubts(plan, options, choice.card))), ask

    def _by_prompt(
        self, options: OcrOptions, choice: Choice, key: str, ask: Ask
    ) -> tuple[Plan, Ask]:
        """Return the plan of an annotation prompt without a format: the Nebul way."""
        prompt = options.annotation_prompt or ""
        schema = schema_prompt(prompt)
        own = choice.card.annotation is not None
        who = choice if own else self._who(choice, key, _PROMPT, prose=schema is None)
        form = None if schema is None else accept(who.card, schema, _PROMPT)
        if own:
            if form is not None:
                ask = Ask(form.page, native=False, schema=form.schema)
            return Plan(folds=True, form=form), ask
        ask = choose_prompt(replace(options, annotation_prompt=None), choice.card)
        guidance = None if form is not None else prompt
        return Plan(document=who, form=form, guidance=guidance), ask

    def _who(
        self, choice: Choice, key: str, param: str, *, image: bool = False, prose: bool = False
    ) -> Choice:
        """Return who annotates: a model that was trained to, the annotator, or the model itself.

        Args:
            choice: who reads the pages.
            key: chooses among the annotator's targets.
            param: the field that asks for it, for the error.
            image: about pictures, so that it must take some.
            prose: in words, so that it must be one that reads the document's text.
        """
        helper = self._registry.annotator(key)
        own = choice if _can(choice.card, image=image, prose=prose) else None
        if helper is not None and not _can(helper.card, image=image, prose=prose):
            helper = None
        if own is not None and own.card.annotation is not None and own.card.annotation.trained:
            return own
        if (found := helper or own) is not None:
            return found
        others = ", ".join(self._registry.annotators()) or "none of those served here"
        raise AnnotationUnsupported(
            f"{choice.card.id} cannot annotate documents. Models that can: {others}.", param=param
        )

    async def page(self, run: Run, read: Read, page: Page) -> Page:
        """Return the page with its part of the document's annotation.

        Raises:
            AppError: the annotation failed and the caller did not allow a partial answer.
        """
        plan = run.plan
        if not (plan.folds or plan.document):
            return page
        if not (plan.folds or (plan.by_page and plan.form)):
            run.texts[page.index] = _text(read)
            return page
        if read.drawn.blank:
            return replace(page, annotation="")
        asked: list[Annotator] = []
        with _paid(run, asked):
            try:
                part = self._folded if plan.folds else self._filled
                page = await part(run, read, page, asked)
            except AppError as error:
                page = _failed(run, page, error)
        return _with_usage(page, asked)

    async def pictures(self, run: Run, page: Page) -> Page:
        """Return the page with an annotation of each of its pictures, where that was asked for.

        Raises:
            AppError: as `page` does.
        """
        plan = run.plan
        if plan.regions is None or plan.region_form is None or page.error is not None:
            return page
        choice, form = plan.regions, plan.region_form
        asked: list[Annotator] = []

        async def one(number: int) -> tuple[Region, Warn | None]:
            region = page.regions[number]
            if region.image is None or _is_thin(region, page):
                return region, Warn("picture_too_thin", "A picture is too thin to be annotated.")
            who = self._annotator(choice, run, f"p{page.index}-r{number}")
            asked.append(who)
            try:
                text, _ = await who.region(region.image, form)
            except AppError as error:
                return region, _tolerated(run, error)
            return replace(region, annotation=text), None

        with _paid(run, asked):
            numbers = range(len(page.regions))
            async with aclosing(in_order(numbers, one, REGIONS_AT_ONCE)) as stream:
                done = [each async for each in stream]
        warnings = dict.fromkeys(warning for _, warning in done if warning is not None)
        page = replace(page, regions=tuple(region for region, _ in done))
        return _with_usage(replace(page, warnings=(*page.warnings, *warnings)), asked)

    async def _filled(self, run: Run, read: Read, page: Page, asked: list[Annotator]) -> Page:
        """Return the page with what a second look says for the form; ``asked`` gets who looked."""
        plan = run.plan
        if plan.document is None or plan.form is None:
            return page
        who = self._annotator(plan.document, run, f"p{page.index}-a")
        asked.append(who)
        value, _ = await who.page(read.jpeg, plan.form)
        return replace(page, annotation=dump(value))

    async def _folded(self, run: Run, read: Read, page: Page, asked: list[Annotator]) -> Page:
        """Return the page with the model's own answer, asked for again where a schema wants it."""
        form = run.plan.form
        text, exact = await asyncio.to_thread(_said, read, run.choice.card, form is not None)
        if form is None:
            return replace(page, annotation=text)
        value, reason = await judged(replace(read.reading, text=text), form.schema)
        if not reason:
            return replace(page, annotation=text if exact else dump(value))
        who = self._annotator(run.choice, run, f"p{page.index}-a")
        asked.append(who)
        value, _ = await who.ask_again(read.reading, form.page, read.jpeg, form.schema)
        return _said_again(page, dump(value), reason)

    def notes(self, run: Run) -> Notes:
        """Return what collects the pages of a run for its annotation."""
        plan = run.plan
        who = self._annotator(plan.document, run, "d") if plan.document else None
        return Notes(run, who)

    def _annotator(self, who: Choice, run: Run, place: str) -> Annotator:
        """Return who asks one card.

        Args:
            who: the card and its replicas.
            run: the request.
            place: what is asked about, for the server's log.
        """
        engine = self._engines[who.card.engine]

        async def ask(question: Question) -> Reading:
            async def at(url: str | None) -> Reading:
                with stages.question(who.card.id, url) as asking:
                    reading = await engine.ask(replace(question, url=url))
                    asking.answered(reading)
                    return reading

            return await run.ticket.ask(who.card, who.named, at)

        return Annotator(ask, who.card, f"{run.request.id}-{place}")


def without_crops(page: Page, options: OcrOptions) -> Page:
    """Return the page without the bytes of its pictures, unless the caller asked for them."""
    if options.want_images or not page.regions:
        return page
    return replace(page, regions=tuple(replace(region, image=None) for region in page.regions))


def _can(card: Card, *, image: bool, prose: bool) -> bool:
    how = card.annotation
    return how is not None and (how.images or not image) and (how.by == "chat" or not prose)


def _form(
    response_format: Mapping[str, Any], card: Card, param: str, guidance: str | None = None
) -> Form:
    schema = response_format["json_schema"]["schema"]
    return accept(card, schema, f"{param}.json_schema.schema", guidance)


def _doubts(plan: Plan, options: OcrOptions, card: Card) -> list[Warn]:
    """Return what is to be said about an annotation before it is made by ``card`` or others."""
    documents = _FORMAT if options.annotation_format is not None else _PROMPT
    asked = (
        (plan.document.card if plan.document else None, documents),
        (card if plan.folds and plan.form else None, _PROMPT),
        (plan.regions.card if plan.regions else None, _REGIONS),
    )
    doubts = [
        Warn("annotation_best_effort", f"{who.id} was not trained to fill schemas.", param)
        for who, param in asked
        if who is not None and who.annotation is not None and not who.annotation.trained
    ]
    filler = plan.document.card if plan.document else None
    if plan.guidance and filler and filler.annotation and filler.annotation.by == "skeleton":
        said = f"{filler.id} fills the schema alone; it was trained on no prompt beside it."
        doubts.append(Warn("not_supported", said, _PROMPT))
    return doubts


def _text(read: Read) -> str:
    """Return all text of a page, its header and footer too, whatever the caller wants apart."""
    parsed = read.parsed
    return "\n\n".join(part for part in (parsed.header, parsed.markdown, parsed.footer) if part)


def _said(read: Read, card: Card, with_schema: bool) -> tuple[str, bool]:
    """Return what the model answered, and whether that is JSON.

    JSON is taken as it was said, since parsers tidy text up for readers; prose as it was parsed.
    """
    raw = without_end_tokens(plain(read.reading.text)).strip()
    bare = strip_control_tokens(raw, card.control_tokens)
    for text in dict.fromkeys((raw, bare)):
        if not isinstance(parse_exact(text), NotJson):
            return text, True
    return bare if with_schema else replace_marks(read.parsed.markdown, lambda _: ""), False


def _said_again(page: Page, text: str, reason: str) -> Page:
    """Return the page with its second answer in the place of the first, which did not fit."""
    said = f"The model's answer was thrown away once: {reason}."
    kept = [warning for warning in page.warnings if warning.code != "truncated"]
    return replace(
        page,
        markdown=text,
        annotation=text,
        blocks=(),
        tables=(),
        header=None,
        footer=None,
        hyperlinks=(),
        confidences=(),
        tokens=(),
        usage=Usage(),
        wasted=page.wasted + page.usage,
        warnings=(*kept, Warn("asked_again", said)),
    )


def _is_thin(region: Region, page: Page) -> bool:
    left, top, right, bottom = region.box.pixels(page.width, page.height)
    short, long = sorted((right - left, bottom - top))
    return short < LEAST_EDGE or long > MOST_STRETCH * short


def _tolerated(run: Run, error: AppError) -> Warn:
    """Return the warning for an error, or raise it where the caller wants all or nothing."""
    if not run.request.options.allow_partial:
        raise error
    return Warn("annotation_failed", error.message)


def _failed(run: Run, page: Page, error: AppError) -> Page:
    return replace(page, warnings=(*page.warnings, _tolerated(run, error)))


def _with_usage(page: Page, asked: Sequence[Annotator]) -> Page:
    """Return the page with the tokens of every answer about it."""
    usage = sum((who.usage for who in asked), page.usage)
    return replace(page, usage=usage, wasted=sum((who.wasted for who in asked), page.wasted))


@contextmanager
def _paid(run: Run, asked: Sequence[Annotator]) -> Iterator[None]:
    """Count what was asked in vain: it failed, or the caller left."""
    try:
        yield
    except BaseException:
        run.wasted += sum((who.usage + who.wasted for who in asked), Usage())
        raise
