"""How the commands fail."""

from __future__ import annotations

from typing import NoReturn

import click


def fail(*problems: str) -> NoReturn:
    """Print what is wrong, and end."""
    for problem in problems:
        click.echo(f"recto: {problem}", err=True)
    raise SystemExit(1)
