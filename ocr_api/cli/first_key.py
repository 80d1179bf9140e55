"""A container's first API key."""

from __future__ import annotations

from pathlib import Path

import click

from ocr_api import admin
from ocr_api.cli.failing import fail


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def init(file: Path) -> None:
    """Make the database, the secret and a first API key, once; write the key to FILE.

    The key is one of the local organisation, for everything. Where FILE is there already, or the
    key was made before, nothing is done, so that a container may begin with it at every start.
    """
    if file.exists():
        click.echo(f"{file} is there already: nothing to do.", err=True)
        return
    try:
        made = admin.make_first_key(file)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}.")
    if made:
        click.echo(f"The first API key stands in {file}.", err=True)
    else:
        said = "The first key was made before, and is not made again"
        click.echo(f"{said}; another one: recto keys create --org local", err=True)
