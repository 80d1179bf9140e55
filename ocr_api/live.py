"""The command `recto routes`: how the routes of a running service work now."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click

from ocr_api import checks
from ocr_api.traffic import Traffic

SECONDS = 10.0
"""Longest wait for the service."""
_MOST_BYTES = 64 * 2**20
_SHOWN = 4
"""Servers of a target that a line names."""
_HEAD = (
    "NAME",
    "TARGET",
    "WEIGHT",
    "SHARE",
    "STATE",
    "PAGES",
    "ERRORS",
    "EMPTY",
    "LOOPS",
    "SERVERS",
)


class NoAnswer(ValueError):
    """Nothing that speaks our protocol answers there."""


class Refused(ValueError):
    """The service answers and does not show its routes."""


@click.command()
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the service."
)
@click.option(
    "--key-file", type=click.Path(path_type=Path),
    help="File with an API key that has the scope admin; else RECTO_KEY holds one.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def routes(url: str, key_file: Path | None, as_json: bool) -> None:
    """Show who answers to which name now, and how the targets do.

    Where no service answers, what the files say is shown instead, and the exit code is 1.
    """
    try:
        picture, live = ask(url, _key(key_file)), True
    except Refused as error:
        _fail(str(error))
    except NoAnswer as error:
        click.echo(f"recto: {error} This is what the files say:", err=True)
        picture, live = _of_files(), False
    if as_json:
        click.echo(json.dumps({**picture, "live": live}, indent=2, ensure_ascii=False))
    else:
        _print(picture, live=live)
    if not live:
        raise SystemExit(1)


def ask(url: str, key: str | None) -> dict[str, Any]:
    """Return the answer of ``GET /v1/routes``.

    Args:
        url: address of the service, with or without ``/v1``.
        key: an API key, where the service asks for one.

    Raises:
        Refused: the service does not show them to this key.
        NoAnswer: nothing answers, or something else.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not host:
        raise Refused("--url must be an address such as http://127.0.0.1:8000.")
    where = f"{parts.scheme}://{host}"
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = parts.path.rstrip("/").removesuffix("/v1") + "/v1/routes"
    try:
        status, answer = _get(kind(host, timeout=SECONDS), path, key)
    except (OSError, HTTPException, ValueError) as error:
        raise NoAnswer(f"No service answers at {where}.") from error
    is_ours = isinstance(answer, dict)
    if is_ours and status == HTTPStatus.OK and {"data", "file"} <= answer.keys():
        return dict(answer)
    if not is_ours or "message" not in answer:
        raise NoAnswer(f"What answers at {where} shows no routes.")
    hint = " RECTO_KEY, or the file of --key-file, must hold a key with the scope admin."
    asks = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    raise Refused(f"{where} answers: {answer['message']}{hint if asks else ''}")


def _get(connection: HTTPConnection, path: str, key: str | None) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read(_MOST_BYTES))


def _key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("RECTO_KEY") or None
    try:
        return file.read_text("utf-8").strip() or None
    except (OSError, ValueError) as error:
        _fail(f"--key-file: {file} cannot be read ({type(error).__name__}).")


def _of_files() -> dict[str, Any]:
    """Return the picture of the routes as they would be after a start."""
    try:
        _, registry = checks.configuration()
    except checks.Misconfigured as error:
        _fail(*error.problems)
    return {"object": "list", **Traffic(registry).picture()}


def _print(picture: dict[str, Any], *, live: bool) -> None:
    lines = [_HEAD, *(line for route in picture["data"] for line in _lines(route, live=live))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    if wrong := picture["file"]["wrong"]:
        click.echo("The routes file changed and is wrong, so that these older routes are kept:")
        for problem in wrong:
            click.echo(f"  {problem}")


def _lines(route: dict[str, Any], *, live: bool) -> Iterator[Sequence[str]]:
    """Yield a line for each target and shadow; the route's own facts are on the first."""
    name = route["name"] + (" (default)" if route["default"] else "")
    for target in route["targets"]:
        away, circuits = target["away"], {server["circuit"] for server in target["servers"]}
        state = f"away {away['seconds_left']} s ({away['reason']})" if away else "in use"
        state = "no server answers" if circuits == {"open"} else state
        state = state if target["weight"] else "no weight"
        yield (
            name,
            target["card"],
            str(target["weight"]),
            f"{target['share']:.1%}",
            state if live else "-",
            *_counted(target, live=live),
            _servers(target["servers"], live=live),
        )
        name = ""
    for shadow in route["shadow"]:
        share, servers = f"{shadow['share']:.1%}", _servers(shadow["servers"], live=live)
        yield (name, shadow["card"], "-", share, "shadow", "-", "-", "-", "-", servers)


def _counted(target: dict[str, Any], *, live: bool) -> Iterator[str]:
    yield str(target["pages"]) if live else "-"
    for rate in ("errors", "empty", "repetition"):
        yield f"{target[rate]:.1%}" if live and target["pages"] else "-"


def _servers(servers: Sequence[dict[str, Any]], *, live: bool) -> str:
    """Return each server with its work; the first of many are enough for a line."""
    shown = []
    for server in servers[:_SHOWN]:
        place = server["address"] or "in this process"
        work = f" {server['in_flight']}/{server['limit']}" if server["limit"] is not None else ""
        state = "" if server["circuit"] == "closed" else f" {server['circuit']}"
        shown.append(f"{place}{work}{state}" if live else place)
    more = f" and {len(servers) - _SHOWN} more" if len(servers) > _SHOWN else ""
    return ", ".join(shown) + more


def _fail(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"recto: {problem}", err=True)
    raise SystemExit(1)
