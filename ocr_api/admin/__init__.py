"""The commands `recto orgs`, `recto keys` and `recto db`: what an operator does, no server needed.

They work on the database of the settings, also while servers run on it. What a script wants (an
id, a key) is alone on standard output; explanations go to standard error.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from files_api.accounts import (
    ALL_SCOPES,
    LEAST_WEIGHT,
    LOCAL_ORG_ID,
    MOST_WEIGHT,
    USUAL_WEIGHT,
    AccountError,
    Organisations,
    OrgLimits,
    OrgRecord,
    ensure_local,
)
from files_api.keys import TRUST_SECONDS, KeyRecord, Keys
from files_api.kit.db import Database, UnfitDatabase, async_url
from files_api.kit.db.reasons import explain
from files_api.kit.disk import make_folders, write_private
from files_api.kit.errors import AppError, StorageUnavailable
from files_api.links import load_or_make_secret
from ocr_api import migrations
from ocr_api.admin.lines import key_line, organisation_line, print_table, time_text
from ocr_api.settings import Settings

_FIRST = "first"
DEFAULT_SCOPES = "files:read,files:write,ocr"

_DURATION = re.compile(r"([1-9][0-9]{0,5})([hd])")
_HOURS = {"h": 1, "d": 24}
_NUMBER = re.compile(r"[0-9]{1,19}")
_MOST = 2**63 - 1  # what a column holds

Answer = TypeVar("Answer")


def _limit(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Return a whole number, 0 for no limit, or ``default``, which is the setting's limit."""
    if value is None or value == "default":
        return value
    number = int(value) if _NUMBER.fullmatch(value) else -1
    if not 0 <= number <= _MOST:
        raise click.BadParameter(f"{value!r} is neither a whole number nor `default`.")
    return number


def _weight(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Return a weight, or ``default``."""
    if value is None or value == "default":
        return value
    number = int(value) if _NUMBER.fullmatch(value) else -1
    if not LEAST_WEIGHT <= number <= MOST_WEIGHT:
        between = f"{LEAST_WEIGHT} to {MOST_WEIGHT}"
        raise click.BadParameter(f"{value!r} is neither a number from {between} nor `default`.")
    return number


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each limit of an organisation, and for its weight."""
    texts = {
        "max_bytes": "Most bytes stored",
        "max_files": "Most files stored",
        "requests_per_minute": "Most requests in a minute",
        "pages_per_minute": "Most pages read in a minute",
        "bytes_per_minute": "Most bytes uploaded in a minute",
    }
    text = (
        f"Its share of the engines beside others', {LEAST_WEIGHT} to {MOST_WEIGHT}; `default` is "
        f"{USUAL_WEIGHT}."
    )
    command = click.option("--weight", callback=_weight, metavar="NUMBER", help=text)(command)
    for name in reversed(tuple(texts)):
        option = f"--{name.replace('_', '-')}"
        text = f"{texts[name]}; 0 is no limit, `default` the setting's."
        command = click.option(option, name, callback=_limit, metavar="NUMBER", help=text)(command)
    return command


@click.group()
def orgs() -> None:
    """Make and list organisations, set their limits."""


@orgs.command("create")
@click.argument("name")
@_limit_options
def create_organisation(name: str, **limits: int | str | None) -> None:
    """Make an organisation called NAME; print its id."""

    async def work(desk: _Desk) -> OrgRecord:
        return await desk.organisations.create(name, OrgLimits(**_changes(limits)))

    made = _run(work)
    click.echo(made.id)
    _explain(f"Organisation {made.name!r} is made. A key for it: recto keys create --org {made.id}")


@orgs.command("list")
def list_organisations() -> None:
    """List all organisations, what they store and their own limits."""
    found = _run(lambda desk: desk.organisations.list())
    head = ("ID", "NAME", "MADE", "FILES", "BYTES", "LIMITS")
    print_table([head, *(organisation_line(record) for record in found)])


@orgs.command("limit")
@click.argument("org")
@_limit_options
def limit_organisation(org: str, **limits: int | str | None) -> None:
    """Set limits of ORG (an id or a name); those that are not named stay as they are."""
    changes = _changes(limits)
    if not changes:
        _fail("Name at least one limit; `recto orgs limit --help` lists them.")

    async def work(desk: _Desk) -> OrgRecord:
        found = await desk.organisations.find(org)
        await desk.organisations.set_limits(found.id, changes)
        return found

    _explain(f"The limits of {_run(work).name!r} are set; running servers feel it within 30 s.")


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@click.option("--org", required=True, help="Whose key it is: an organisation's id or name.")
@click.option("--name", default="", help="A name for people.")
@click.option("--service", is_flag=True, help="It may act for every organisation.")
@click.option("--scopes", default=DEFAULT_SCOPES, show_default=True, help="What it may do.")
@click.option("--expires", help="After 90d or 12h, or at 2027-01-31 (UTC, ISO 8601); else never.")
def create_key(org: str, name: str, service: bool, scopes: str, expires: str | None) -> None:
    """Make a key and print it: it is shown this once."""
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    until = None if expires is None else _expiry(expires)

    async def work(desk: _Desk) -> tuple[KeyRecord, str, bool]:
        owner = await desk.organisations.find(org)
        first = not await desk.keys.any()
        record, text = await desk.keys.make(
            owner, scopes=wanted, name=name, service=service, expires_at=until
        )
        return record, text, first

    record, text, first = _run(work, with_secret=True)
    click.echo(text)
    _explain(
        f"Key {record.id} of organisation {record.org_name!r}, for {' '.join(record.scopes)}; "
        f"expires: {time_text(record.expires_at, 'never')}. It is not shown again."
    )
    if record.service:
        _explain("It is a service key: who has it may act for every organisation (X-Org-Id).")
    if first:
        _explain("It is the first: within 30 s every request to this service needs a key.")


@keys.command("list")
@click.option("--org", help="Only those of an organisation, by its id or name.")
def list_keys(org: str | None) -> None:
    """List keys, never their secrets."""

    async def work(desk: _Desk) -> list[KeyRecord]:
        owner = await desk.organisations.find(org) if org is not None else None
        return await desk.keys.list(owner.id if owner else None)

    head = ("ID", "ORGANISATION", "NAME", "SCOPES", "MADE", "EXPIRES", "USED", "STATE")
    print_table([head, *(key_line(record) for record in _run(work))])


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """Revoke the key with this id (16 digits, never the whole key), once and for all."""
    record = _run(lambda desk: desk.keys.revoke(key_id))
    _explain(
        f"Key {record.id} is revoked since {time_text(record.revoked_at, '')}. "
        f"Running servers refuse it within {TRUST_SECONDS:g} s."
    )


def make_first_key(file: Path) -> bool:
    """Make a key for everything in the local organisation; write it to a file of its owner's.

    One that was made before is not made again, wherever its file is: who removed the file meant it.
    Tells whether it was made now.

    Raises:
        OSError: the file cannot be written.
    """
    make_folders(file.absolute().parent)

    async def work(desk: _Desk) -> str | None:
        local = await desk.organisations.find(LOCAL_ORG_ID)
        if any(key.name == _FIRST for key in await desk.keys.list(local.id)):
            return None
        _, text = await desk.keys.make(local, scopes=ALL_SCOPES, name=_FIRST)
        return text

    key = _run(work, with_secret=True)
    if key is not None:
        write_private(file, (key + "\n").encode())
    return key is not None


@click.group()
def db() -> None:
    """Bring the database up to date."""


@db.command("upgrade")
def upgrade_database() -> None:
    """Bring the database to the revision of this program; print the one that it is at then."""

    async def work(settings: Settings) -> str | None:
        async with _opened(settings) as database:
            await migrations.upgrade(database)
            return await migrations.current(database)

    click.echo(_run_plainly(work))


@db.command("current")
def current_revision() -> None:
    """Print the revision that the database is at; make nothing."""

    async def work(settings: Settings) -> str | None:
        if _is_absent(settings):
            return None
        async with _opened(settings) as database:
            return await migrations.current(database)

    found = _run_plainly(work)
    click.echo(found or "none")
    why = migrations.problem(found, is_sqlite=False)
    if why is not None:
        _explain(f"The database {why}")


class _Desk:
    """What a command works with."""

    def __init__(self, database: Database, secret: bytes, previous: bytes | None) -> None:
        self.organisations = Organisations(database)
        self.keys = Keys(database, secret, previous)


def _run(work: Callable[[_Desk], Awaitable[Answer]], *, with_secret: bool = False) -> Answer:
    """Run a command on a database that is up to date; SQLite's is made or upgraded here."""

    async def opened(settings: Settings) -> Answer:
        async with _opened(settings) as database:
            await migrations.prepare(database)
            await ensure_local(database)
            return await work(_Desk(database, *_secrets(settings, made=with_secret)))

    return _run_plainly(opened)


def _run_plainly(work: Callable[[Settings], Awaitable[Answer]]) -> Answer:
    """Run a command; what fails is one line. The settings are read above, in `cli`."""
    read: Callable[[], Settings] = click.get_current_context().find_root().obj
    settings = read()

    async def run() -> Answer:
        return await work(settings)

    try:
        return asyncio.run(run())
    except AccountError as error:
        _fail(str(error))
    except UnfitDatabase as error:
        _fail(f"RECTO_DATABASE_URL: {error}")
    except StorageUnavailable as error:
        where = "the database"
        if host := async_url(settings.effective_database_url()).host:
            where += f" at {host}"
        _fail(f"RECTO_DATABASE_URL: {where} cannot be used: {explain(error)}.")
    except AppError as error:
        _fail(f"RECTO_DATABASE_URL: {error.message}")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror or error}.")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    """Open the database; the folder that a SQLite file is in by default is made."""
    database = Database(settings.effective_database_url())
    if not settings.database_url:
        make_folders(settings.data_dir.absolute())
    try:
        yield database
    finally:
        await database.close()


def _is_absent(settings: Settings) -> bool:
    """Tell whether the database is a SQLite file that is not there yet."""
    database = Database(settings.effective_database_url())
    path = database.engine.url.database
    return database.is_sqlite and not (path and Path(path).exists())


def _secrets(settings: Settings, *, made: bool) -> tuple[bytes, bytes | None]:
    """Return the master secret and the one before, as the service takes them.

    Where no new key is made, none is checked either, and no secret is needed.
    """
    current, previous = settings.secret_key, settings.previous_secret_key
    before = previous.get_secret_value().encode() if previous else None
    if current:
        return current.get_secret_value().encode(), before
    if not made:
        return b"", before
    make_folders(settings.data_dir.absolute())
    try:
        secret = load_or_make_secret(settings.data_dir)
    except ValueError as error:
        raise AccountError(f"{error}.") from error
    if settings.database_url:
        where = settings.data_dir.absolute() / "secret.key"
        _explain(f"RECTO_SECRET_KEY is empty: only servers with {where} take this key.")
    return secret, before


def _changes(limits: dict[str, int | str | None]) -> dict[str, int | None]:
    """Return the limits that were named; None where it is the setting's."""
    named = {name: value for name, value in limits.items() if value is not None}
    return {name: value if isinstance(value, int) else None for name, value in named.items()}


def _expiry(text: str) -> int:
    """Return when a key expires, in unix seconds: ``12h`` or ``90d`` from now, or a date."""
    now = datetime.now(UTC).timestamp()
    if match := _DURATION.fullmatch(text):
        return int(now) + int(match[1]) * _HOURS[match[2]] * 3600
    try:
        moment = datetime.fromisoformat(text)
        until = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        _fail(f"--expires: {text!r} is neither like 90d or 12h nor a date like 2027-01-31.")
    if until <= now:
        _fail(f"--expires: {text} is over already.")
    return int(until)


def _explain(text: str) -> None:
    click.echo(text, err=True)


def _fail(problem: str) -> NoReturn:
    click.echo(f"recto: {problem}", err=True)
    raise SystemExit(1)
