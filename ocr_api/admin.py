"""The commands `recto orgs`, `recto keys` and `recto db`: what an operator does, no server needed."""

from __future__ import annotations

import click


@click.group()
def orgs() -> None:
    """Make and list organisations, set their limits."""


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@click.group()
def db() -> None:
    """Bring the database up to date."""
