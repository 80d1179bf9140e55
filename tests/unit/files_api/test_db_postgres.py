"""PostgreSQL when it fails: stopped, hung, full, crowded. A real server does each of these."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError, DBAPIError

from files_api.kit.db import Base, Database
from files_api.kit.db import postgres as module
from files_api.kit.errors import AppError, StorageFull, StorageUnavailable
from files_api.tables import Organisation
from tests import postgres

MOST = 12
"""Connections that the server takes."""


def certificate() -> tuple[bytes, bytes]:
    """Return a certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


CERTIFICATE, KEY = certificate()


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.LocalCluster]:
    """A server that may be stopped; it speaks TLS, too."""
    files = {"server.crt": CERTIFICATE, "server.key": KEY}
    options = {"max_connections": str(MOST), "superuser_reserved_connections": "0"}
    with postgres.LocalCluster(
        postgres.programs(), files, ssl="on", deadlock_timeout="50ms", **options
    ) as cluster:
        yield cluster


@pytest.fixture
def url(server: postgres.LocalCluster) -> Iterator[str]:
    with server.database() as url:
        yield url


@asynccontextmanager
async def opened(url: str, **options: str) -> AsyncIterator[Database]:
    """Open a database whose tables are there, and close its pool."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    database = Database(f"{url}?{query}" if query else url)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with opened(url) as database:
        await database.run_sync(Base.metadata.create_all)
        yield database


async def add(database: Database, name: str) -> None:
    async with database.unit() as session:
        session.add(Organisation(id=name, name=name, created_at=1))


async def names(database: Database) -> list[str]:
    async with database.read() as session:
        found = await session.execute(text("SELECT name FROM organisations ORDER BY name"))
        return list(found.scalars())


async def run(database: Database, statement: str) -> object:
    async with database.unit() as session:
        found = await session.execute(text(statement))
        return found.scalar() if found.returns_rows else None  # type: ignore[attr-defined]


async def fails(work: Awaitable[object], error: type[AppError] = StorageUnavailable) -> None:
    """Check that work ends with an error that a client sees, as an outage."""
    with pytest.raises(error) as caught:
        await work
    assert type(caught.value) is error
    assert caught.value.retry_after


# --- gone and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
async def test_a_server_that_stops_and_starts(
    server: postgres.LocalCluster, database: Database, crash: bool
) -> None:
    """R7: 503 while it is away; all that was acknowledged is there after, without a restart."""
    await asyncio.gather(*(add(database, f"before {number}") for number in range(6)))
    server.stop(crash=crash)
    try:
        for _ in range(3):
            await fails(add(database, "during"))
            await fails(names(database))
            await fails(database.check())
    finally:
        server.start()
    await database.check()  # at the first try: no connection of before is used again
    await asyncio.gather(*(add(database, f"later {number}") for number in range(6)))
    wanted = [f"{when} {number}" for when in ("before", "later") for number in range(6)]
    assert await names(database) == wanted


async def test_a_server_that_stops_within_a_unit(
    server: postgres.LocalCluster, database: Database
) -> None:
    """R7: the unit is undone whole; its error is the client's 503."""

    async def half() -> None:
        async with database.unit() as session:
            session.add(Organisation(id="half", name="half", created_at=1))
            await session.flush()
            server.stop(crash=True)
            session.add(Organisation(id="more", name="more", created_at=1))
            await session.flush()

    try:
        await fails(half())
    finally:
        server.start()
    assert await names(database) == []


async def test_a_connection_that_the_server_ends(database: Database) -> None:
    """R7: whether in a unit or while it waits in the pool."""
    await fails(run(database, "SELECT pg_terminate_backend(pg_backend_pid())"))
    await database.check()
    async with database.read() as first, database.read() as second:
        for session in (first, second):
            await session.execute(text("SELECT 1"))
        inner = await (await second.connection()).get_raw_connection()
        driver = inner.driver_connection
    assert driver
    async with database.read() as session:
        await session.execute(
            text("SELECT pg_terminate_backend(:pid)"), {"pid": driver.get_server_pid()}
        )
    while not driver.is_closed():  # noqa: ASYNC110 - the driver tells nobody
        await asyncio.sleep(0)
    await asyncio.gather(*(names(database) for _ in range(4)))


async def test_a_server_that_hangs(
    server: postgres.LocalCluster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7: found out at BEGIN, soon, and not after the time of a statement."""
    monkeypatch.setattr(module, "BEGIN_SECONDS", 0.5)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2.0)  # enough for a busy machine
    async with opened(url) as database:
        await database.run_sync(Base.metadata.create_all)
        await add(database, "before")
        server.freeze()
        try:
            async with asyncio.timeout(module.STATEMENT_SECONDS / 2):
                await fails(add(database, "during"))
                await fails(names(database))
        finally:
            server.freeze(frozen=False)
        await asyncio.gather(*(database.check() for _ in range(4)))
        assert await names(database) == ["before"]


async def test_an_old_connection_is_not_trusted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pid() -> object:
        return await run(database, "SELECT pg_backend_pid()")

    first = await pid()
    assert await pid() == first
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    assert await pid() != first


# --- refused --------------------------------------------------------------------------------------


async def test_a_server_with_all_its_connections_taken(url: str, database: Database) -> None:
    """R7."""
    await names(database)
    await database.engine.dispose()
    async with AsyncExitStack() as stack:
        for _ in range(MOST):
            taken = await asyncpg.connect(url)
            stack.push_async_callback(taken.close)
        await fails(database.check())
    for _ in range(100):  # the server lets go of a connection a moment after its client
        try:
            await database.check()
        except StorageUnavailable:
            continue
        return
    raise AssertionError("it did not recover")


async def test_a_pool_that_is_empty(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: who waits for a connection in vain is told so."""
    monkeypatch.setattr(module, "POOL_SIZE", 1)
    monkeypatch.setattr(module, "POOL_SECONDS", 0.1)
    async with opened(url) as database:
        async with database.read() as first, database.read() as second:
            await first.execute(text("SELECT 1"))
            await second.execute(text("SELECT 1"))
            await fails(database.check())
        await database.check()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("ALTER ROLE guest PASSWORD 'another'", "InvalidPasswordError"),
        ("ALTER ROLE guest NOLOGIN", "InvalidAuthorizationSpecificationError"),
        ("ALTER ROLE guest CONNECTION LIMIT 0", "TooManyConnectionsError"),
    ],
)
async def test_a_guest_that_is_turned_away(
    server: postgres.LocalCluster, url: str, change: str, kind: str
) -> None:
    """R7: and let in again without a restart."""
    server.execute("CREATE ROLE guest LOGIN PASSWORD 'known'")
    async with opened(url.replace(f"{postgres.USER}:{postgres.PASSWORD}", "guest:known")) as guest:
        try:
            server.execute(change)
            with pytest.raises(StorageUnavailable) as caught:
                await guest.check()
            cause = caught.value.__cause__
            assert isinstance(cause, DBAPIError)
            assert cause.orig
            assert type(cause.orig.__cause__).__name__ == kind
            server.execute("ALTER ROLE guest LOGIN CONNECTION LIMIT 5 PASSWORD 'known'")
            await guest.check()
        finally:
            await guest.engine.dispose()
            server.execute("DROP ROLE guest")


async def test_a_database_that_is_not_there(server: postgres.LocalCluster) -> None:
    async with opened(server.url("absent")) as database:
        await fails(database.check())


async def test_a_port_where_nobody_listens() -> None:
    async with opened(f"postgresql://u:p@127.0.0.1:{postgres._free_port()}/x") as database:
        await fails(database.check())


async def test_a_server_that_became_a_standby(url: str, database: Database) -> None:
    async with opened(url, default_transaction_read_only="on") as standby:
        await fails(add(standby, "a"))
        assert await names(standby) == []


# --- slow and in each other's way -----------------------------------------------------------------


async def test_a_statement_takes_no_longer_than_it_may(url: str) -> None:
    async with opened(url, statement_timeout="100") as database:
        await fails(run(database, "SELECT pg_sleep(30)"))
        await database.check()


async def test_an_answer_takes_no_longer_than_it_may(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server does not keep its own limit."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    async with opened(url) as database:
        await fails(run(database, "SELECT pg_sleep(30)"))
        await database.check()


async def test_a_unit_that_hangs_gives_up_its_locks(url: str, database: Database) -> None:
    await add(database, "a")
    change = text("UPDATE organisations SET created_at = 2")

    async def hang(held: Database) -> None:
        async with held.unit() as session:
            await session.execute(change)
            await run(database, "UPDATE organisations SET created_at = 3")
            await session.execute(change)

    async with opened(url, idle_in_transaction_session_timeout="100") as held:
        await fails(hang(held))
    assert await run(database, "SELECT created_at FROM organisations") == 3


async def test_of_two_units_that_wait_for_each_other_one_is_told(database: Database) -> None:
    await asyncio.gather(add(database, "a"), add(database, "b"))
    met = asyncio.Barrier(2)

    async def change(first: str, second: str) -> None:
        async with database.unit() as session:
            for name in (first, second):
                await session.execute(
                    text("UPDATE organisations SET name = name || '!' WHERE id = :id"), {"id": name}
                )
                if name == first:
                    await met.wait()

    ends = await asyncio.gather(change("a", "b"), change("b", "a"), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [StorageUnavailable]
    assert await names(database) == ["a!", "b!"]


async def test_a_table_that_somebody_else_changes(database: Database) -> None:
    """A statement that was prepared before a migration is prepared again at the next try."""
    everything = "SELECT * FROM organisations"
    await run(database, everything)
    async with opened(database.engine.url.render_as_string(hide_password=False)) as other:
        await run(database, everything)
        async with other.unit() as session:
            await session.execute(text("ALTER TABLE organisations ALTER name TYPE varchar(300)"))
    await fails(run(database, everything))
    await run(database, everything)


async def test_migrations_are_not_hurried(database: Database) -> None:
    assert await run(database, "SHOW statement_timeout") == "30s"
    assert await run(database, "SHOW application_name") == "recto"
    limits = await database.run_sync(
        lambda connection: [
            connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("statement_timeout", "lock_timeout")
        ]
    )
    assert limits == ["0", "30s"]


async def test_what_is_wrong_with_a_statement_is_no_outage(database: Database) -> None:
    for statement in ("SELECT * FROM no_such_table", "SELECT 1/0", "SELEC"):
        with pytest.raises(DBAPIError):
            await run(database, statement)
    with pytest.raises(DBAPIError):
        await add(database, "\x00")
    async with database.read() as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT CAST(:n AS bigint)"), {"n": 2**70})
    await database.check()


# --- the URL --------------------------------------------------------------------------------------


async def is_encrypted(database: Database) -> object:
    return await run(database, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


@pytest.mark.parametrize(
    ("options", "encrypted"),
    [
        ({}, True),
        ({"sslmode": "disable"}, False),
        ({"sslmode": "require"}, True),
        ({"ssl": "require"}, True),
        ({"sslmode": "verify-full", "sslrootcert": "own"}, True),
        ({"sslmode": "verify-full", "sslrootcert": "other"}, None),
        ({"connect_timeout": "10", "statement_cache_size": "0", "application_name": "x"}, True),
    ],
    ids=str,
)
async def test_options_are_spelt_as_libpq_does(
    url: str, tmp_path: Path, options: dict[str, str], encrypted: bool | None
) -> None:
    for name, content in (("own", CERTIFICATE), ("other", certificate()[0])):
        (tmp_path / name).write_bytes(content)
    if "sslrootcert" in options:
        options = options | {"sslrootcert": str(tmp_path / options["sslrootcert"])}
    async with opened(url, **options) as database:
        if encrypted is None:
            await fails(database.check())
        else:
            assert await is_encrypted(database) is encrypted


async def test_a_server_without_encryption_is_refused_where_it_is_required(
    postgres_cluster: postgres.Cluster,
) -> None:
    if postgres.GIVEN:
        pytest.skip("the server that was named may have TLS")
    async with opened(postgres_cluster.url("postgres"), sslmode="require") as database:
        await fails(database.check())


async def test_odd_characters_in_a_password(server: postgres.LocalCluster, url: str) -> None:
    server.execute("CREATE ROLE odd LOGIN PASSWORD 'a@b:c/d%e+f g#?'")
    known = f"{postgres.USER}:{postgres.PASSWORD}"
    async with opened(url.replace(known, "odd:a%40b%3Ac%2Fd%25e%2Bf%20g%23%3F")) as database:
        await database.check()
    server.execute("DROP ROLE odd")


def test_another_driver_is_refused() -> None:
    with pytest.raises(ArgumentError, match="asyncpg"):
        Database("postgresql+psycopg2://h/d")


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(server: postgres.LocalCluster) -> Iterator[Callable[[], None]]:
    """Make a tablespace ``small`` of 1 MiB; give what makes it larger."""
    folder = server._home / "small"
    folder.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "recto-test", str(folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    if os.geteuid() != 0 or not mount("size=1m"):
        pytest.skip("no file system can be mounted here")
    try:
        server.own(folder)
        folder.chmod(0o700)
        server.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        yield lambda: None if mount("remount,size=8m") else pytest.fail("it cannot be made larger")
    finally:
        server.execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


async def test_a_full_disk(small_disk: Callable[[], None], url: str) -> None:
    """R7: 507, nothing that was acknowledged is lost, and it heals by itself."""
    async with opened(url, default_tablespace="small") as database:
        await database.run_sync(Base.metadata.create_all)
        kept: list[str] = []

        async def fill() -> None:
            while len(kept) < 20_000:
                new = [f"{len(kept) + number:06}" for number in range(500)]
                rows = [Organisation(id=name, name=name * 30, created_at=1) for name in new]
                async with database.unit() as session:
                    session.add_all(rows)
                kept.extend(new)

        await fails(fill(), StorageFull)
        assert len(await names(database)) == len(kept) > 0
        await run(database, "SELECT count(*) FROM organisations")
        small_disk()
        await add(database, "later")
        assert len(await names(database)) == len(kept) + 1
        await database.run_sync(Base.metadata.drop_all)
