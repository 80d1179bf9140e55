"""The command `recto`: serve, read files, look after keys, the configuration, the fleet.

Each command is imported when it is asked for: `recto health` runs twice a minute in a container,
and is not to pay for what serves.
"""

from __future__ import annotations

import gc
import sys
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ocr_api.settings import Settings

_COMMANDS = {
    "serve": "ocr_api.cli.serving:serve",
    "read": "ocr_api.cli.tasks:read",
    "check": "ocr_api.cli.tasks:check",
    "vllm": "ocr_api.cli.tasks:vllm",
    "init": "ocr_api.cli.first_key:init",
    "health": "ocr_api.cli.health:health",
    "routes": "ocr_api.live:routes",
    "orgs": "ocr_api.admin:orgs",
    "keys": "ocr_api.admin:keys",
    "db": "ocr_api.admin:db",
    "compare": "ocr_api.compare:compare",
    "chart": "ocr_api.chart:chart",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        where = _COMMANDS.get(cmd_name)
        return _imported(where) if where else None


def _imported(where: str) -> click.Command:
    """Import a command; what modules hold stays for good and is never garbage.

    Looking for garbage among it takes a third of the time of importing, and of every full
    collection later.
    """
    if where.partition(":")[0] in sys.modules:
        return _found(where)
    gc.disable()
    try:
        found = _found(where)
        gc.freeze()
    finally:
        gc.enable()
    return found


def _found(where: str) -> click.Command:
    found: click.Command = resolve_name(where)
    return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="recto", prog_name="recto")
@click.pass_context
def main(context: click.Context) -> None:
    """Recto: self-hosted OCR. Settings are RECTO_* environment variables."""
    context.obj = _settings  # what the commands of `admin` need, when they run


def _settings() -> Settings:
    found: Settings = resolve_name("ocr_api.cli.shared:storage_settings")()
    return found
