"""What the pages of a run contribute to its annotation, and what is made of it at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from files_api.kit.errors import AppError
from ocr_api.annotate.annotator import Annotator
from ocr_api.annotate.form import Form
from ocr_api.annotate.merge import fold, parse_exact
from ocr_api.pipeline.run import Run
from ocr_api.result import Page, Warn


class Notes:
    """Takes the pages in order, and makes the annotation of the document."""

    def __init__(self, run: Run, annotator: Annotator | None) -> None:
        """Take the run, and who fills its annotation; None where answers are folded, or nobody."""
        self._run = run
        self._annotator = annotator
        self._answers: list[tuple[int, str]] = []
        self._texts: list[tuple[int, str]] = []
        self._pictured: set[int] = set()

    def add(self, page: Page) -> None:
        """Take the next page; one that could not be read says nothing."""
        text = self._run.texts.pop(page.index, None)
        if page.error is not None:
            return
        if any(region.annotation is not None for region in page.regions):
            self._pictured.add(page.index)
        if page.annotation is not None:
            self._answers.append((page.index, page.annotation))
        if text is not None:
            self._texts.append((page.index, text))

    async def finish(self) -> None:
        """Make the annotation of the whole document and give it to the run.

        Raises:
            AppError: it failed and the caller did not allow a partial answer.
        """
        run, annotator = self._run, self._annotator
        run.annotated = len(self._pictured)
        try:
            await self._make()
        except AppError as error:
            if not run.request.options.allow_partial:
                raise
            run.warnings = (*run.warnings, Warn("annotation_failed", error.message))
        finally:
            if annotator is not None:
                run.tokens += annotator.usage
                run.wasted += annotator.wasted
                run.warnings = (*run.warnings, *annotator.warnings)

    async def _make(self) -> None:
        run, plan, annotator = self._run, self._run.plan, self._annotator
        answers, texts = _told(self._answers), _told(self._texts)
        if plan.folds and answers:
            # Blank pages as well: they have their place in an array.
            every = [text for _, text in self._answers]
            run.annotation = await asyncio.to_thread(fold, every)
        elif annotator is not None and plan.form is not None and answers:
            run.annotation = await self._merged(annotator, plan.form, answers)
        elif annotator is not None and texts:
            schema = plan.form.schema if plan.form else None
            run.annotation, _ = await annotator.document(texts, schema, plan.guidance)
        elif self._answers or self._texts:
            said = "Nothing was read that an annotation could be made of."
            run.warnings = (*run.warnings, Warn("annotation_empty", said))
        if run.annotation is not None:
            made = {index for index, _ in (*answers, *texts)}
            run.annotated = len(self._pictured | made)

    async def _merged(
        self, annotator: Annotator, form: Form, answers: Sequence[tuple[int, str]]
    ) -> str:
        texts = [text for _, text in answers]
        values: list[Any] = await asyncio.to_thread(lambda: [*map(parse_exact, texts)])
        return await annotator.finish(values, form.schema)


def _told(parts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(index, text) for index, text in parts if text.strip()]
