"""A real PostgreSQL for the tests: one server for the session, an empty database for each test.

The server is this machine's newest (``apt-get install postgresql``), run from a temporary folder
on a loopback port, without fsync. ``RECTO_TEST_POSTGRES=postgresql://user:password@host`` names
one that runs already; its user must be allowed to make databases. Where there is none, tests are
skipped, or fail with ``RECTO_TEST_NEEDS_POSTGRES=1``.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

# Read here: the tests' own environment has none of our variables.
GIVEN = os.environ.get("RECTO_TEST_POSTGRES", "")
NEEDED = os.environ.get("RECTO_TEST_NEEDS_POSTGRES", "") not in ("", "0")
ABSENT = (
    "there is no PostgreSQL server here: apt-get install postgresql (or your system's package), "
    "or name a running one with RECTO_TEST_POSTGRES=postgresql://user:password@host"
)
USER, PASSWORD = "recto", "of-the-tests"
_SECONDS = 60.0
"""Longest wait for a server to start or stop; it takes about one."""


class Cluster:
    """A server whose databases tests make and drop."""

    def __init__(self, url: str) -> None:
        """Take the server's URL, without a database."""
        self._url = make_url(url)

    def url(self, name: str, **query: str) -> str:
        """Return the URL of a database, as an operator would write it."""
        made = self._url.set(database=name, query=query)
        return made.render_as_string(hide_password=False)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, give its URL, drop it."""
        name = f"recto_test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, name: str = "postgres") -> None:
        """Run a statement outside of any transaction."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url(name), timeout=_SECONDS)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        # In a thread, because the caller may be an async test, whose loop runs in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, run()).result()


class LocalCluster(Cluster):
    """A server of our own, which tests may stop and start; use it as a context."""

    def __init__(
        self, programs: Path, files: Mapping[str, bytes] | None = None, **options: str
    ) -> None:
        """Take the folder of its programs, settings, and files that these name.

        ``max_connections="8"``; ``ssl="on", files={"server.key": ...}``.
        """
        self._programs = programs
        self._files = files or {}
        self._options = options
        self._home = Path(tempfile.mkdtemp(prefix="recto-postgres-"))
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        super().__init__(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self._port}")

    def __enter__(self) -> LocalCluster:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        assert self._process is None
        options = {
            "fsync": "off",
            "full_page_writes": "off",
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            **self._options,
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_guard(), str(self._programs / "postgres"), "-D", str(self._data), *words],
                stdout=log,
                stderr=log,
                **_as_servers_user(),
            )
        self._until_ready()

    def stop(self, *, crash: bool = False) -> None:
        """Stop: close all connections in order, or drop them as a crash would (``immediate``)."""
        if self._process:
            self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            self._process.wait(_SECONDS)
            self._process = None

    def freeze(self, *, frozen: bool = True) -> None:
        """Let all its processes stop where they are, or go on: what hangs says nothing."""
        assert self._process
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in [str(self._process.pid), *children.read_text().split()]:
            os.kill(int(pid), signal.SIGSTOP if frozen else signal.SIGCONT)

    @staticmethod
    def own(path: Path) -> None:
        """Give a file or folder to the user that the server runs as."""
        if found := _as_servers_user():
            os.chown(path, found["user"], found["group"])

    def _make(self) -> None:
        secret = self._home / "password"
        secret.write_text(PASSWORD)
        self.own(self._home)
        self.own(secret)
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", USER]
        command += ["--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(
            [*command, "--no-sync", "--no-instructions"],
            capture_output=True,
            check=False,
            text=True,
            timeout=_SECONDS,
            **_as_servers_user(),
        )
        assert done.returncode == 0, done.stderr
        for name, content in self._files.items():
            path = self._data / name
            path.write_bytes(content)
            path.chmod(0o600)
            self.own(path)

    def _until_ready(self) -> None:
        """Wait for what `pg_ctl` waits for: the last line of the server's own state file."""
        state, end = self._data / "postmaster.pid", time.monotonic() + _SECONDS
        while True:
            assert self._process
            assert self._process.poll() is None, (self._home / "log").read_text()
            assert time.monotonic() < end, (self._home / "log").read_text()
            lines = state.read_text().split("\n") if state.exists() else []
            ours = lines[:1] == [str(self._process.pid)]
            if ours and any(line.strip() == "ready" for line in lines):
                return
            time.sleep(0.02)  # another process tells nobody when it is ready


@contextmanager
def for_session() -> Iterator[Cluster]:
    """Give the session's server; skip or fail where there is none."""
    if GIVEN:
        yield Cluster(GIVEN.replace("postgres://", "postgresql://", 1))
        return
    with LocalCluster(programs()) as cluster:
        yield cluster


def programs() -> Path:
    """Return the folder of the newest server's programs; skip or fail where there is none."""
    if found := _find():
        return found
    if NEEDED:
        pytest.fail(ABSENT, pytrace=False)
    pytest.skip(ABSENT)


_NAMES = ("initdb", "postgres")


def _find() -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    on_path = shutil.which("initdb")
    folders = [*debian, *([Path(on_path).resolve().parent] if on_path else [])]
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(told.stdout.strip() or "/"))
    whole = (path for path in folders if all((path / name).is_file() for name in _NAMES))
    return next(whole, None)


def _version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdecimal() else 0


def _guard() -> list[str]:
    """Return what lets a server end with the thread that started it, even one that was killed."""
    found = shutil.which("setpriv") if sys.platform == "linux" else None
    return [found, "--pdeathsig=QUIT"] if found else []


def _as_servers_user() -> dict[str, int]:
    """Return who the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid}
    return {}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


if __name__ == "__main__":  # for `make test`, which says once what was left out
    if GIVEN:
        print("The tests of the database ran on SQLite, and on RECTO_TEST_POSTGRES.")
    elif folder := _find():
        print(f"The tests of the database ran on SQLite, and on PostgreSQL ({folder}).")
    else:
        print(f"Left out: the tests on PostgreSQL ({ABSENT}).")
