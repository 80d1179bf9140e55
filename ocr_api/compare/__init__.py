"""The command `recto compare`: the same documents by several models, side by side."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

import click
from uuid_utils import uuid7

from files_api.kit.errors import AppError
from files_api.kit.observe import set_up_logs
from model_registry.card import Render
from model_registry.registry import Registry, UnknownModelError, UnservedModelError
from ocr_api import app, checks
from ocr_api.compare import figures
from ocr_api.compare.facts import JsonReport
from ocr_api.compare.figures import Cell, Figures
from ocr_api.compare.reading import Reading, read
from ocr_api.compare.report import HtmlReport
from ocr_api.offline import LOCAL, NoFiles, forget
from ocr_api.pages import DrawnPage
from ocr_api.request import OcrOptions
from ocr_api.selection import PageSelection
from ocr_api.settings import Settings

PICTURE = Render(edge=1100, quality=70)
"""How pages are drawn for the report: readable at twice the size they are shown in, 100 kB each."""
DEFAULT_OUTPUT = "report.html"
FAILED, NOTHING = 1, 2
"""Exit codes: something was not read; nothing was compared, as click's own for a wrong usage."""


class Output(Protocol):
    """Something that a comparison is written as."""

    def add_file(self, reading: Reading) -> None:
        """Begin a file."""

    def add_page(
        self, reading: Reading, index: int, cells: Sequence[Cell], drawn: DrawnPage | str
    ) -> None:
        """Take a page of that file."""

    def finish(self, totals: Sequence[Figures], out: BinaryIO) -> None:
        """Write everything."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be compared, and where it goes."""

    files: Sequence[Path]
    models: Sequence[str]
    options: OcrOptions
    report: Path | None
    """Where the HTML goes; None where only JSON is wanted."""
    as_json: bool


def _names(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[str]:
    """Return two or more different names, written with commas or in several options."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise click.BadParameter(f"{', '.join(twice)} stands there twice.")
    if len(names) <= 1:
        raise click.BadParameter("name two models or more, separated by commas.")
    return names


def _pages(_: click.Context, __: click.Parameter, value: str | None) -> PageSelection | None:
    try:
        return None if value is None else PageSelection.parse(value)
    except AppError as error:
        raise click.BadParameter(error.message) from error


def _readable(_: click.Context, __: click.Parameter, paths: Sequence[Path]) -> Sequence[Path]:
    for path in paths:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise click.BadParameter(f"{path} {what}.")
    return paths


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), callback=_readable
)
@click.option(
    "--models", multiple=True, required=True, metavar="A,B", callback=_names,
    help="Two models or more: public names, cards or aliases. The others are compared with the "
    "first.",
)  # fmt: skip
@click.option("--pages", callback=_pages, help="Pages to read, counted from 0: 0, 0-2 or 0,2-4.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help=f"Report to write.  [default: {DEFAULT_OUTPUT}; with --json none]",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the report where it is there already.")
@click.option(
    "--json", "as_json", is_flag=True,
    help="Print texts and figures as JSON; HTML is written only where --output names it.",
)  # fmt: skip
def compare(
    files: Sequence[Path],
    models: Sequence[str],
    pages: PageSelection | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Read FILES with several models and write a side-by-side HTML report.

    No server of Recto's is needed. Each page stands there with its picture, what every model made
    of it, the differences, similarity, time and tokens. Every page is read anew. The report holds
    all it shows, some 100 kB for a page; it may be as confidential as the documents.

    The exit code is 1 where a page could not be read (the report says which), and 2 where nothing
    was compared.
    """
    if output is None and not as_json:
        output = Path(DEFAULT_OUTPUT)
    if output is not None:
        _check_output(output, files, force=force)
    settings = _settings(models)
    set_up_logs("ERROR")
    options = OcrOptions(pages=pages, allow_partial=True)
    job = Job(files, models, options, output, as_json)
    try:
        failed = asyncio.run(_compare(settings, job))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}.")
    if failed:
        raise SystemExit(FAILED)


def _check_output(output: Path, files: Sequence[Path], *, force: bool) -> None:
    """Refuse a place where the report cannot go, before anything is read."""
    folder = output.absolute().parent
    problem = None
    if output.exists() and not output.is_file():
        problem = f"{output} is not a file."
    elif any(output.exists() and output.samefile(path) for path in files):
        problem = f"{output} is one of the files to be read."
    elif output.exists() and not force:
        problem = f"{output} is there already; --force overwrites it."
    elif not folder.is_dir():
        problem = f"the folder {folder} does not exist."
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} cannot be written."
    if problem:
        raise click.BadParameter(problem, param_hint="'-o' / '--output'")


def _settings(models: Sequence[str]) -> Settings:
    """Return settings with which each model can be asked."""
    try:
        settings, registry = checks.configuration()
    except checks.Misconfigured as error:
        _fail(*error.problems)
    urls: dict[str, tuple[str, ...]] = {}
    for name in models:
        try:
            registry.choose(name, LOCAL.org_id)
        except UnknownModelError as error:
            raise click.BadParameter(str(error), param_hint="'--models'") from error
        except UnservedModelError as error:
            found = _in_routes(registry, name)
            if not found:
                raise click.BadParameter(str(error), param_hint="'--models'") from error
            urls |= found
    return settings.model_copy(update={"engine_urls": settings.engine_urls | urls})


def _in_routes(registry: Registry, name: str) -> dict[str, tuple[str, ...]]:
    """Return the servers of a card that answers under names of routes only: an A/B test's."""
    return {
        card.id: target.urls
        for card in registry.every_card()
        if name in (card.id, *card.aliases)
        for route in registry.routes().values()
        for target in route.targets
        if target.card == card.id and target.urls
    }


async def _compare(settings: Settings, job: Job) -> bool:
    """Read, compare and write; return whether something could not be read.

    Raises:
        OSError: the report cannot be written.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="recto-compare-"))
        outputs: list[tuple[Output, BinaryIO]] = []
        if job.report is not None:
            spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            target = stack.enter_context(_published(job.report))
            outputs.append((HtmlReport(job.models, spool), target))
        if job.as_json:
            spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            outputs.append((JsonReport(spool), sys.stdout.buffer))
        own = settings.model_copy(update={"data_dir": Path(folder)})
        totals = [Figures(model) for model in job.models]
        failed = await _read_files(own, job, [output for output, _ in outputs], totals)
        for output, out in outputs:
            output.finish(totals, out)
    if job.report is not None:
        click.echo(f"{job.report} written.", err=True)
    return failed


async def _read_files(
    settings: Settings, job: Job, outputs: Sequence[Output], totals: Sequence[Figures]
) -> bool:
    failed = False
    # Without a ledger and a usage book: every page is read anew, and nothing is kept.
    async with app.Workshop(settings, NoFiles(), forget) as workshop:
        for path in job.files:
            reading = await read(workshop, path, job.models, job.options)
            failed |= reading.failed
            figures.add(totals, reading)
            for output in outputs:
                output.add_file(reading)
            for index, cells in figures.rows(reading):
                figures.add_row(totals, cells)
                drawn = await _draw(workshop, reading, index) if job.report else ""
                for output in outputs:
                    output.add_page(reading, index, cells, drawn)
    return failed


async def _draw(workshop: app.Workshop, reading: Reading, index: int) -> DrawnPage | str:
    """Return the picture of a page for the report, or why there is none."""
    document = reading.document
    if document is None:
        return "The file could not be opened."
    try:
        return await workshop.pages.draw(
            document.path, document.media_type, index, PICTURE, owner=LOCAL.org_id
        )
    except AppError as error:
        return error.message


@contextmanager
def _published(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of another at the end of the block, whole or not at all."""
    # Beside it, since only within one file system a name changes hands at once.
    temporary = path.absolute().with_name(f".recto-{uuid7()}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fail(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"recto: {problem}", err=True)
    raise SystemExit(NOTHING)
