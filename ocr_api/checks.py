"""Can the service start as it is configured? Every problem at once, before anything is made.

Why: each part refuses what it cannot use, but one at a time and with a traceback. `recto check`,
`serve` and `read` ask here first and print plain sentences.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import ValidationError

from files_api.blobs import BlobStore, open_store
from files_api.keys import Keys
from files_api.kit import named, traces
from files_api.kit.db import Database, async_url
from files_api.kit.db.reasons import explain
from files_api.kit.errors import AppError
from files_api.links import load_or_make_secret
from model_registry.card import CardError
from model_registry.registry import Registry
from ocr_api import app, migrations
from ocr_api.settings import Settings

PREFIX = "RECTO_"
CONNECT_SECONDS = 10.0
"""Longest wait for a database to answer."""
KEYS_SINCE = "0002"
"""The revision of the database that brought API keys."""

_STORES = "files_api.blobs"
_BACKENDS = ("sqlite", "postgresql")
_EXAMPLES = "write sqlite:////folder/recto.db or postgresql://user:password@host/name"
# What Kubernetes tells every container about a service that is called "recto".
_SERVICE_LINK = re.compile(r"\w*(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


class Misconfigured(ValueError):
    """The service cannot start like this; ``problems`` lists all that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def configuration(
    *, connect: bool = False, engine_urls: dict[str, tuple[str, ...]] | None = None
) -> tuple[Settings, Registry]:
    """Return the settings and the models, when the service can start with them. Makes nothing.

    Args:
        connect: open the database, too, where there is one; blocks for `CONNECT_SECONDS` at most.
        engine_urls: stand in for those of the settings.

    Raises:
        Misconfigured: with every problem of settings, cards, routes and doors.
    """
    settings, problems = read_settings()
    if engine_urls is not None:
        settings = settings.model_copy(update={"engine_urls": engine_urls})
    problems = unknown_variables(os.environ) + problems
    if settings.traces:
        problems += traces.problems()
    database = database_problems(settings)
    if connect and not database:
        database = connection_problems(settings)
    problems += database
    if connect:
        stores = _blob_problems(settings) + _data_problems(settings)
        problems += dict.fromkeys(stores)  # one folder above both gives one problem
    try:
        registry = app.load_registry(settings)
    except CardError as error:
        raise Misconfigured(problems + error.problems) from error
    if problems:
        raise Misconfigured(problems)
    return settings, registry


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a problem for each variable with our prefix that is no setting."""
    known = sorted(name.upper() for name in Settings.model_fields)
    problems = []
    for variable in sorted(environment):
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or name in known:
            continue
        if _SERVICE_LINK.fullmatch(name) or (
            name.endswith("PORT") and ":" in environment[variable]
        ):
            continue
        near = get_close_matches(name, known, n=1)
        problems.append(
            f"{variable}: unknown" + (f"; did you mean {PREFIX}{near[0]}?" if near else "")
        )
    return problems


def read_settings() -> tuple[Settings, list[str]]:
    """Return the settings, with defaults in place of those that are wrong, and what is wrong."""
    try:
        return Settings(), []
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False, include_context=False)
    names = [str(item["loc"][0]) for item in items]
    problems = []
    for name, item in zip(names, items, strict=True):
        inside = [part for part in item["loc"][1:] if isinstance(part, str)]  # a card, say
        message = item["msg"].removeprefix("Value error, ")
        problems.append(": ".join([f"{PREFIX}{name.upper()}", *inside, message]))
    defaults: dict[str, Any] = {
        name: Settings.model_fields[name].get_default(call_default_factory=True) for name in names
    }
    return Settings(**defaults), problems


def database_problems(settings: Settings) -> list[str]:
    """Return what is wrong with the database's URL, without connecting."""
    url = settings.effective_database_url()
    try:
        backend = async_url(url).get_backend_name()
        if backend not in _BACKENDS:
            return [f"RECTO_DATABASE_URL: {backend} is not supported; {_EXAMPLES}"]
        path = Database(url).engine.url.database
    except ModuleNotFoundError as error:
        how = (
            "make server-drivers, or pip install 'recto[postgres]'"
            if error.name == "asyncpg"
            else _EXAMPLES
        )
        return [f"RECTO_DATABASE_URL: its driver {error.name} is not installed: {how}"]
    except Exception:  # noqa: BLE001 - SQLAlchemy and its dialects raise many kinds
        return [f"RECTO_DATABASE_URL: SQLAlchemy cannot use this URL; {_EXAMPLES}"]
    in_a_file = path and path != ":memory:" and not path.startswith("file:")
    if backend != "sqlite" or not path or not in_a_file or not settings.database_url:
        return []
    return _sqlite_problems(Path(path))


def _sqlite_problems(path: Path) -> list[str]:
    folder = path.absolute().parent
    if not folder.is_dir():
        return [f"RECTO_DATABASE_URL: the folder {folder} does not exist"]
    place = path if path.exists() else folder
    if path.is_dir() or not os.access(place, os.R_OK | os.W_OK):
        return [f"RECTO_DATABASE_URL: {path} cannot be written"]
    return []


def connection_problems(settings: Settings) -> list[str]:
    """Return what is wrong when an existing database is opened; an absent SQLite file is fine."""
    url = settings.effective_database_url()
    parsed = async_url(url)
    where = "RECTO_DATABASE_URL: the database"
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or not Path(parsed.database).exists():
            return []
        where = f"the database {parsed.database}"
    try:
        revision = asyncio.run(_revision(url))
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        return [f"{where} cannot be used: {explain(error)}"]
    why = migrations.problem(revision, is_sqlite=parsed.get_backend_name() == "sqlite")
    return [] if why is None else [f"{where} {why}"]


async def _revision(url: str) -> str | None:
    database = Database(url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await migrations.current(database)
    finally:
        await database.close()


def keys_problems(settings: Settings, host: str) -> list[str]:
    """Return why the service must not listen on an address that other machines reach.

    It may once an API key was made, or where keys are required before, since then every caller
    needs one. Makes nothing.
    """
    if settings.require_keys:
        return []
    url = settings.effective_database_url()
    parsed = async_url(url)
    refused = f"Refusing to listen on {host}: "
    is_sqlite = parsed.get_backend_name() == "sqlite"
    exists = not is_sqlite or (parsed.database and Path(parsed.database).exists())
    try:
        if exists and asyncio.run(_has_keys(url)):
            return []
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        kind = type(error).__name__
        return [f"{refused}whether there are API keys is not known; the database failed ({kind})."]
    why = (
        f"{refused}no API keys are configured, so anyone who reaches the port could read every"
        " document. Make one (recto orgs create NAME, then recto keys create --org NAME), set"
        " RECTO_REQUIRE_KEYS=true to make one while it runs, or listen"
        " on 127.0.0.1, behind a proxy that checks who is calling."
    )
    return [why]


async def _has_keys(url: str) -> bool:
    database = Database(url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            # An older revision has no table of keys; serving would bring it, empty.
            revision = await migrations.current(database)
            return (revision or "") >= KEYS_SINCE and await Keys(database, b"").any()
    finally:
        await database.close()


def _blob_problems(settings: Settings) -> list[str]:
    url = settings.effective_blob_url()
    try:
        scheme = urlsplit(url).scheme
        if scheme not in (known := named.names(_STORES)):
            return [f"RECTO_BLOB_URL: there is no store {scheme!r}; known: {', '.join(known)}"]
        store = open_store(url)
        if scheme == "file":
            variable = "RECTO_BLOB_URL" if settings.blob_url else "RECTO_DATA_DIR"
            return _folder_problems(variable, Path(url2pathname(urlsplit(url).path)))
        asyncio.run(_try_store(store))
    except ModuleNotFoundError as error:
        return [f"RECTO_BLOB_URL: {error.name} is not installed: pip install 'recto[{scheme}]'"]
    except ValueError as error:
        return [f"RECTO_BLOB_URL: {error}"]
    except AppError as error:
        # The store's own word for it, where there is one, such as AccessDenied.
        cause = str(error.__cause__)
        word = re.search(r"<Code>(\w+)</Code>", cause) or re.search(r"status code: (\d+)", cause)
        return [f"RECTO_BLOB_URL: the store takes no blob ({word[1] if word else 'no answer'})"]
    return []


async def _try_store(store: BlobStore) -> None:
    try:
        await store.check()
    finally:
        await store.close()


def _data_problems(settings: Settings) -> list[str]:
    """Return what is wrong with the data folder and the secret in it; make neither."""
    folder = settings.data_dir.absolute()
    # The scratch folder lies inside, so one answer is enough for both.
    if problems := _folder_problems("RECTO_DATA_DIR", folder / "scratch"):
        return problems
    if settings.secret_key or not (folder / "secret.key").exists():
        return []
    try:
        load_or_make_secret(folder)
    except OSError as error:
        return [f"{folder / 'secret.key'}: not readable: {error.strerror}"]
    except ValueError as error:
        return [f"{error}; bring it back, or remove it: a new one is made, and signed links die"]
    return []


def _folder_problems(variable: str, folder: Path) -> list[str]:
    """Return why a folder, or the nearest that exists above it, cannot be written; make none."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        return [f"{variable}: {nearest} is not a folder"]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f"{variable}: {nearest} cannot be written"]
    return []
