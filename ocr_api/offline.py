"""Reads files without a server, database or store: what `recto read` does."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import orjson
from uuid_utils import uuid7

from files_api.accounts import LOCAL_ORG_ID, Principal
from files_api.files import StoredFile
from files_api.kit.errors import AppError, FileNotFound
from ocr_api import app, exports
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Page, Result
from ocr_api.settings import Settings
from ocr_api.usage import Entry

LOCAL = Principal(org_id=LOCAL_ORG_ID)


class BadOutput(ValueError):
    """The results cannot be written where they were wanted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which files are read, and where each result goes."""

    fmt: str
    targets: list[tuple[Path, Path | None]]
    """A file, and the path of its result; None is standard output."""


def plan(files: Sequence[Path], output: str | None, *, as_json: bool) -> Plan:
    """Return where each result goes; make the output folder where one is wanted.

    Args:
        files: what is read.
        output: a file whose extension is the format, or a folder: one that exists, one written
            with a final slash, or any for several files. None is standard output.
        as_json: JSON, whatever the extension.

    Raises:
        BadOutput: unknown format, or a place that cannot be written.
    """
    known = "json" if as_json else None
    if output is None:
        return Plan(known or "md", [(path, None) for path in files])
    place = Path(output)
    if len(files) > 1 and place.suffix[1:] in exports.table() and not place.is_dir():
        raise BadOutput(f"{len(files)} results need a folder, and {place} looks like a file.")
    if len(files) > 1 or place.is_dir() or output.endswith(os.sep):
        _make_folder(place, len(files))
        fmt = known or "md"
        names = _names(files, fmt)
        return Plan(fmt, [(path, place / name) for path, name in zip(files, names, strict=True)])
    fmt = known or place.suffix.removeprefix(".").lower() or "md"
    if fmt not in exports.table():
        raise BadOutput(f"Unknown format {fmt!r}; known: {', '.join(sorted(exports.table()))}.")
    if place.exists() and files[0].exists() and place.samefile(files[0]):
        raise BadOutput(f"{place} is the file to be read.")
    if not place.absolute().parent.is_dir():
        raise BadOutput(f"The folder {place.parent} of the output does not exist.")
    if not os.access(place if place.exists() else place.absolute().parent, os.W_OK):
        raise BadOutput(f"{place} cannot be written.")
    return Plan(fmt, [(files[0], place)])


def _make_folder(folder: Path, count: int) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadOutput(f"{folder} is a file; {count} results need a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOutput(f"The folder {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadOutput(f"The folder {folder} cannot be written.")


def _names(files: Sequence[Path], fmt: str) -> list[str]:
    """Return a name for each result; files of one name are numbered from the second on."""
    names: list[str] = []
    for path in files:
        name, number = f"{path.name}.{fmt}", 1
        while name in names:
            number += 1
            name = f"{path.name}.{number}.{fmt}"
        names.append(name)
    return names


async def read_all(settings: Settings, wanted: Plan, options: OcrOptions, model: str | None) -> int:
    """Read each file and write its result; return how many failed.

    One that fails does not stop the others; its message goes to standard error.
    """
    with TemporaryDirectory(prefix="recto-read-") as folder:
        own = settings.model_copy(update={"data_dir": Path(folder)})
        return await _read_all(own, wanted, options, model)


async def _read_all(
    settings: Settings, wanted: Plan, options: OcrOptions, model: str | None
) -> int:
    failed = 0
    async with app.Workshop(settings, NoFiles(), forget) as workshop:
        for path, target in wanted.targets:
            request = OcrRequest(PathSource(path), model, options, id=str(uuid7()))
            try:
                if path.is_dir():
                    raise FileNotFound("is a folder; name the files in it.")
                if path.exists() and not path.is_file():
                    raise FileNotFound("is a pipe or device; only files are read.")
                result = await _read_one(workshop, request, path.name)
                data = exports.table()[wanted.fmt].render(result, wanted.fmt)
                if target is None and len(wanted.targets) > 1:
                    data = _labelled(data, path, wanted.fmt)
                _write(data, target)
            except AppError as error:
                click.echo(f"{path}: {error.message}", err=True)
                failed += 1
            except OSError as error:
                click.echo(f"{error.filename or path}: {error.strerror or error}.", err=True)
                failed += 1
    return failed


async def _read_one(workshop: app.Workshop, request: OcrRequest, label: str) -> Result:
    pipeline = workshop.pipeline
    async with pipeline.open(request, LOCAL) as run:
        pages: list[Page] = []
        quiet = not sys.stderr.isatty()
        with click.progressbar(
            length=len(run.indices), label=label, file=sys.stderr, hidden=quiet
        ) as bar:
            async for page in pipeline.pages(run):
                pages.append(page)
                bar.update(1)
        for warning in run.warnings:
            click.echo(f"{label}: {warning.message}", err=True)
        for page in pages:
            for warning in page.warnings:
                click.echo(f"{label}, page {page.index}: {warning.message}", err=True)
        return run.result(pages)


def _labelled(data: bytes, path: Path, fmt: str) -> bytes:
    """Return a result that says which file it is of: a comment in markdown, a key in JSON lines."""
    name = os.fsencode(path).decode("utf-8", "replace")
    if fmt == "json":
        return orjson.dumps({"file": name, **orjson.loads(data)}) + b"\n"
    # Two hyphens would end the comment early.
    return f"<!-- {name.replace('--', '- -')} -->\n\n".encode() + data + b"\n"


def _write(data: bytes, target: Path | None) -> None:
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        target.write_bytes(data)
        click.echo(f"{target} written.", err=True)


async def forget(principal: Principal, entry: Entry) -> None:
    """Keep no usage: the command line has no database."""


class NoFiles:
    """The command line stores no files."""

    def open_file(
        self, principal: Principal, file_id: str
    ) -> AbstractAsyncContextManager[StoredFile]:
        """Refuse."""
        del principal, file_id
        raise FileNotFound

    @asynccontextmanager
    async def open_link(self, reader: Principal, url: str) -> AsyncIterator[StoredFile | None]:
        """Own no link."""
        del reader, url
        yield None
