"""The command `recto`: serve, read files, check the configuration."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NoReturn

import click
import uvicorn
from pydantic import ValidationError
from uuid_utils import uuid7

from files_api.accounts import LOCAL_ORG_ID, Principal
from files_api.files import StoredFile
from files_api.kit.errors import AppError, FileNotFound
from files_api.kit.observe import set_up_logs
from model_registry.card import CardError, explain
from ocr_api import app, exports
from ocr_api.request import OcrOptions, OcrRequest, PathSource
from ocr_api.result import Page, Result
from ocr_api.selection import PageSelection
from ocr_api.settings import Settings, configs
from ocr_api.usage import Entry

LOCAL = Principal(org_id=LOCAL_ORG_ID)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(app.own_version(), prog_name="recto")
def main() -> None:
    """Recto: self-hosted OCR. Settings are RECTO_* environment variables."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port; 0 takes a free one.")
@click.option("--workers", default=1, show_default=True, help="API processes (PostgreSQL only).")
def serve(host: str, port: int, workers: int) -> None:
    """Serve the APIs over HTTP."""
    settings = _settings()
    if not _is_loopback(host):
        _fail(
            f"Refusing to listen on {host}: no API keys are configured, so anyone who reaches "
            "the port could read every document. Listen on 127.0.0.1, behind a proxy that "
            "checks who is calling."
        )
    if workers > 1:
        _fail("--workers above 1 needs PostgreSQL (RECTO_DATABASE_URL): SQLite has one writer.")
    set_up_logs(settings.log_level)
    try:
        service = app.create(settings)
    except CardError as error:
        _fail(*error.problems)
    config = uvicorn.Config(
        service,
        host=host,
        port=port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    server = _Announcing(config)
    server.run()
    if not server.started:
        raise SystemExit(1)


class _Announcing(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start, then print the address and a line to paste."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if not self.started:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        base = f"http://{host}:{port}"
        click.echo(f"Recto listens on {base} (docs: {base}/docs). Try it in another terminal:\n")
        click.echo(f"  {example_line(base)}\n")


def example_line(base: str) -> str:
    """Return a curl line that uploads the demo scan and reads its first page."""
    scan = configs().parent / "docs" / "demo" / "scan.pdf"
    path = scan if scan.exists() else Path("document.pdf")
    upload = f"curl -s {base}/v1/files -F purpose=ocr -F 'file=@{path}'"
    first_id = "grep -oE '[0-9a-f-]{36}' | head -n 1"
    return f"""curl -s {base}/v1/files/$({upload} | {first_id})/ocr -d '{{"pages": "0"}}'"""


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pages", help="Pages to read, counted from 0: 0, 0-2 or 0,2-4.")
@click.option("--model", help="Model to read with; the default is the default route.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of markdown.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="File to write (its extension chooses the format), or a folder for several files.",
)  # fmt: skip
def read(
    files: Sequence[Path], pages: str | None, model: str | None, as_json: bool, output: Path | None
) -> None:
    """Read FILES without a server; markdown goes to standard output."""
    settings = _settings()
    set_up_logs("ERROR")
    fmt = _format(as_json, output, len(files))
    try:
        options = OcrOptions(pages=None if pages is None else PageSelection.parse(pages))
        failed = asyncio.run(_read_all(settings, files, options, model, fmt, output))
    except CardError as error:
        _fail(*error.problems)
    except AppError as error:
        _fail(error.message)
    if failed:
        raise SystemExit(1)


def _format(as_json: bool, output: Path | None, count: int) -> str:
    if as_json:
        return "json"
    if output is None or output.is_dir() or count > 1:
        return "md"
    fmt = output.suffix.removeprefix(".").lower() or "md"
    if fmt not in exports.table():
        _fail(f"Unknown format {fmt!r}; known: {', '.join(sorted(exports.table()))}.")
    return fmt


async def _read_all(
    settings: Settings,
    files: Sequence[Path],
    options: OcrOptions,
    model: str | None,
    fmt: str,
    output: Path | None,
) -> int:
    """Read each file; return how many failed. One that fails does not stop the others."""
    failed = 0
    async with app.Workshop(settings, NoFiles(), forget) as workshop:
        for path in files:
            request = OcrRequest(PathSource(path), model, options, id=str(uuid7()))
            try:
                result = await _read_one(workshop, request, path.name)
            except AppError as error:
                click.echo(f"{path}: {error.message}", err=True)
                failed += 1
                continue
            _write(exports.table()[fmt].render(result, fmt), path, fmt, output, len(files))
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
        return run.result(pages)


def _write(data: bytes, path: Path, fmt: str, output: Path | None, count: int) -> None:
    if output is None:
        sys.stdout.buffer.write(data)
        return
    if count > 1 or output.is_dir():
        output.mkdir(parents=True, exist_ok=True)
        output = output / f"{path.name}.{fmt}"
    output.write_bytes(data)


@main.command()
def check() -> None:
    """Check settings, cards and routes; print every problem at once."""
    settings = _settings()
    try:
        registry = app.load_registry(settings)
    except CardError as error:
        _fail(*error.problems)
    for name in registry.names():
        card = registry.choose(name, "").card
        click.echo(f"ok: {name} (card {card.id}, engine {card.engine}, parser {card.parser})")


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        _fail(*(f"RECTO_{line.upper()}" if ":" in line else line for line in explain(error)))


def _fail(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"recto: {problem}", err=True)
    raise SystemExit(1)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
    async def open_link(self, url: str) -> AsyncIterator[StoredFile | None]:
        """Own no link."""
        del url
        yield None


if __name__ == "__main__":
    main()
