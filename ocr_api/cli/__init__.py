"""The command `recto`: serve, read files, look after keys, the configuration, the fleet."""

from __future__ import annotations

import click

from ocr_api import admin, app, chart, compare, live
from ocr_api.cli import life, tasks
from ocr_api.cli.serving import example_line, serve, worker
from ocr_api.cli.shared import storage_settings
from ocr_api.offline import NoFiles, forget

__all__ = ["NoFiles", "example_line", "forget", "main", "worker"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(app.own_version(), prog_name="recto")
@click.pass_context
def main(context: click.Context) -> None:
    """Recto: self-hosted OCR. Settings are RECTO_* environment variables."""
    context.obj = storage_settings  # what the commands of `admin` need, when they run


for _command in (
    serve,
    tasks.read,
    tasks.check,
    tasks.vllm,
    life.init,
    life.health,
    live.routes,
    admin.orgs,
    admin.keys,
    admin.db,
    compare.compare,
    chart.chart,
):
    main.add_command(_command)
