"""What a container's life needs: a first key, and whether the server beside it is well."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from pathlib import Path

import click

from ocr_api import admin
from ocr_api.cli.shared import fail

_SECONDS = 4.0
"""Below the deadline that Docker and Kubernetes give such a command as a rule."""
_FINE = 200


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


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the server listens.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65535),
    help="Port of the server.",
)  # fmt: skip
@click.option("--ready", is_flag=True, help="Ask whether it can work, not only whether it lives.")
def health(host: str, port: int, ready: bool) -> None:
    """Ask the server in this container how it is; the exit code is 0 when it is well."""
    connection = HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", "/readyz" if ready else "/livez")
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, HTTPException) as error:
        fail(f"No answer from {host}, port {port}: {str(error) or type(error).__name__}.")
    finally:
        connection.close()
    click.echo(text)
    if answer.status != _FINE:
        raise SystemExit(1)
