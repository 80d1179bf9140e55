"""Asks whether the server in the same container is well; imports next to nothing."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

import click

from ocr_api.cli.failing import fail

_SECONDS = 4.0
"""Below the deadline that Docker and Kubernetes give such a command as a rule."""
_FINE = 200


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
