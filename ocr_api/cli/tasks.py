"""The commands that need no server: read files, check the configuration, print vLLM's command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from files_api.kit.errors import AppError
from files_api.kit.observe import set_up_logs
from model_registry import serving
from model_registry.serving import NoServerError
from ocr_api import checks, offline
from ocr_api.cli.failing import fail
from ocr_api.cli.shared import configuration, find_card
from ocr_api.request import OcrOptions
from ocr_api.selection import PageSelection
from ocr_api.settings import configs


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pages", help="Pages to read, counted from 0: 0, 0-2 or 0,2-4.")
@click.option("--model", help="Model to read with; the default is the default route.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of markdown.")
@click.option(
    "-o", "--output",
    help="File to write (its extension chooses the format), or a folder for several files.",
)  # fmt: skip
def read(
    files: Sequence[Path], pages: str | None, model: str | None, as_json: bool, output: str | None
) -> None:
    """Read FILES without a server; markdown goes to standard output."""
    settings, _ = configuration()
    set_up_logs("ERROR")
    try:
        options = OcrOptions(pages=None if pages is None else PageSelection.parse(pages))
        wanted = offline.plan(files, output, as_json=as_json)
        failed = asyncio.run(offline.read_all(settings, wanted, options, model))
    except offline.BadOutput as error:
        fail(str(error))
    except AppError as error:
        fail(error.message)
    if failed:
        raise SystemExit(1)


@click.command()
@click.argument("card")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the server.")
@click.option(
    "--port", default=8100, show_default=True, type=click.IntRange(1, 65535),
    help="Port of the server.",
)  # fmt: skip
def vllm(card: str, host: str, port: int) -> None:
    """Print the command that serves CARD with vLLM."""
    settings, problems = checks.read_settings()
    if problems:
        fail(*problems)
    try:
        line = serving.shell(
            find_card(settings, card), host=host, port=port, plugins=configs() / "vllm"
        )
    except NoServerError as error:
        fail(str(error))
    click.echo(line)


@click.command()
def check() -> None:
    """Check settings, cards and routes; print every problem at once."""
    _, registry = configuration(connect=True)
    for name in registry.names():
        for card in registry.cards_of(name):
            click.echo(f"ok: {name} (card {card.id}, engine {card.engine}, parser {card.parser})")
