"""Who annotates, what is asked, and what comes of it (design, decision 8).

The Nebul way: an annotation prompt alone is what the model is asked for each page, and its
answers are folded into one. The Mistral way: the pages are read as usual, and a schema is filled
in a second pass, page by page or over the whole document, by the model itself or by the routes'
annotator.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from files_api.kit.errors import AnnotationUnsupported, AppError
from model_registry.card import Card
from model_registry.registry import Choice, Registry
from ocr_api.annotate.annotator import Annotator, accept
from ocr_api.annotate.merge import dump, fold, parse_exact
from ocr_api.annotate.prompts import native_question, schema_prompt
from ocr_api.engines import Engine
from ocr_api.pipeline.order import in_order
from ocr_api.pipeline.run import Plan, Run
from ocr_api.pipeline.tries import Read
from ocr_api.request import Ask, OcrOptions, choose_prompt
from ocr_api.result import Page, Region, Usage, Warn, replace_marks, replace_table_marks

REGIONS_AT_ONCE = 4
"""Pictures of one page that are annotated at a time."""

_PROMPT, _FORMAT, _REGIONS = (
    "document_annotation_prompt",
    "document_annotation_format",
    "bbox_annotation_format",
)
Schema = Mapping[str, Any]


class Annotations:
    """Plans and makes the annotations of requests."""

    def __init__(self, registry: Registry, engines: Mapping[str, Engine]) -> None:
        self._registry = registry
        self._engines = engines

    def plan(self, options: OcrOptions, choice: Choice, key: str) -> tuple[Plan, Ask]:
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
        ask = choose_prompt(options, choice.card)
        plan = Plan()
        if options.annotation_format is not None:
            who = self._who(choice, key, _FORMAT)
            schema = _schema_of(options.annotation_format, who.card, _FORMAT)
            plan = Plan(document=who, schema=schema, guidance=options.annotation_prompt)
        elif options.annotation_prompt:
            plan, ask = self._by_prompt(options, choice, key, ask)
        if options.region_annotation_format is not None and options.image_limit != 0:
            who = self._who(choice, key, _REGIONS, image=True)
            schema = _schema_of(options.region_annotation_format, who.card, _REGIONS)
            plan = replace(plan, regions=who, region_schema=schema)
        return replace(plan, warnings=tuple(_doubts(plan))), ask

    def _by_prompt(
        self, options: OcrOptions, choice: Choice, key: str, ask: Ask
    ) -> tuple[Plan, Ask]:
        """Return the plan of an annotation prompt without a format: the Nebul way."""
        prompt = options.annotation_prompt or ""
        schema = schema_prompt(prompt)
        who = choice if choice.card.annotation is not None else self._who(choice, key, _PROMPT)
        if schema is not None:
            accept(who.card, schema, _PROMPT)
        if who is choice:
            if schema is not None:
                question = native_question(choice.card, schema)
                ask = Ask(question, native=False, schema=schema)
            return Plan(folds=True), ask
        ask = choose_prompt(replace(options, annotation_prompt=None), choice.card)
        guidance = None if schema is not None else prompt
        return Plan(document=who, schema=schema, guidance=guidance), ask

    def _who(self, choice: Choice, key: str, param: str, *, image: bool = False) -> Choice:
        """Return who annotates: a model that was trained to, the annotator, or the model itself."""
        helper = self._registry.annotator(key)
        own = choice if _can(choice.card, image=image) else None
        if helper is not None and not _can(helper.card, image=image):
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
        """Return the page with what it and its pictures show.

        Raises:
            AppError: the annotation failed and the caller did not allow a partial answer.
        """
        plan = run.plan
        if plan.folds:
            return replace(page, annotation=replace_marks(read.parsed.markdown, lambda _: ""))
        try:
            if plan.document and plan.by_page and plan.schema is not None and not read.drawn.blank:
                who = self._annotator(plan.document, run, f"p{page.index}-a")
                value, used = await who.page(read.jpeg, plan.schema, plan.guidance)
                page = replace(page, annotation=dump(value), usage=page.usage + used)
            if plan.regions:
                page = await self._regions(run, page)
        except AppError as error:
            if not run.request.options.allow_partial:
                raise
            warning = Warn("annotation_failed", error.message)
            page = replace(page, warnings=(*page.warnings, warning))
        if not run.request.options.want_images:
            regions = tuple(replace(region, image=None) for region in page.regions)
            page = replace(page, regions=regions)
        return page

    async def _regions(self, run: Run, page: Page) -> Page:
        """Return the page with an annotation of each of its pictures."""
        who, schema = run.plan.regions, run.plan.region_schema
        if who is None or schema is None:
            return page

        async def one(number: int) -> tuple[Region, Usage]:
            region = page.regions[number]
            annotator = self._annotator(who, run, f"p{page.index}-r{number}")
            text, used = await annotator.region(region.image or b"", schema)
            return replace(region, annotation=text), used

        regions, usage = [], page.usage
        async with aclosing(in_order(range(len(page.regions)), one, REGIONS_AT_ONCE)) as done:
            async for region, used in done:
                regions.append(region)
                usage += used
        return replace(page, regions=tuple(regions), usage=usage)

    def notes(self, run: Run) -> Notes:
        """Return what collects the pages of a run for its annotation."""
        who = self._annotator(run.plan.document, run, "d") if run.plan.document else None
        return Notes(run, who)

    def _annotator(self, who: Choice, run: Run, place: str) -> Annotator:
        engine, url = self._engines[who.card.engine], who.urls[0] if who.urls else None
        return Annotator(engine, who.card, url, f"{run.request.id}-{place}")


class Notes:
    """What the pages contribute to the document's annotation."""

    def __init__(self, run: Run, annotator: Annotator | None) -> None:
        self._run = run
        self._annotator = annotator
        self._said: list[str] = []
        self._markdowns: list[tuple[int, str]] = []

    def add(self, page: Page) -> None:
        """Take the next page; one that could not be read says nothing."""
        if page.error is not None or not self._run.plan.annotates:
            return
        if page.annotation is not None:
            self._said.append(page.annotation)
        elif not self._run.plan.by_page:
            whole = replace_table_marks(page.markdown, lambda number: page.tables[number].content)
            self._markdowns.append((page.index, replace_marks(whole, lambda _: "")))

    async def finish(self) -> None:
        """Make the annotation of the whole document and give it to the run.

        Raises:
            AppError: it failed and the caller did not allow a partial answer.
        """
        run = self._run
        try:
            await self._make()
        except AppError as error:
            if not run.request.options.allow_partial:
                raise
            run.tokens += self._annotator.usage if self._annotator else Usage()
            run.warnings = (*run.warnings, Warn("annotation_failed", error.message))

    async def _make(self) -> None:
        run, plan = self._run, self._run.plan
        if plan.folds and self._said:
            run.annotation = fold(self._said)
            run.annotated = len(self._said)
        elif self._annotator and plan.by_page and plan.schema is not None and self._said:
            values = [parse_exact(said) for said in self._said]
            run.annotation = await self._annotator.finish(values, plan.schema)
            run.annotated = len(self._said)
        elif self._annotator and self._markdowns:
            run.annotation, used = await self._annotator.document(
                self._markdowns, plan.schema, plan.guidance
            )
            run.tokens += used
            run.annotated = len(self._markdowns)


def _can(card: Card, *, image: bool) -> bool:
    return card.annotation is not None and (card.annotation.images or not image)


def _schema_of(response_format: Mapping[str, Any], card: Card, param: str) -> Schema:
    schema: Schema = response_format["json_schema"]["schema"]
    accept(card, schema, f"{param}.json_schema.schema")
    return schema


def _doubts(plan: Plan) -> list[Warn]:
    """Return what is to be said about a second pass before it is made."""
    asked = ((plan.document, _FORMAT if plan.schema else _PROMPT), (plan.regions, _REGIONS))
    doubts = [
        Warn("annotation_best_effort", f"{who.card.id} was not trained to fill schemas.", param)
        for who, param in asked
        if who is not None and who.card.annotation is not None and not who.card.annotation.trained
    ]
    who = plan.document
    if plan.guidance and who and who.card.annotation and who.card.annotation.by == "skeleton":
        said = f"{who.card.id} fills the schema alone; it was trained on no prompt beside it."
        doubts.append(Warn("not_supported", said, _PROMPT))
    return doubts
