"""The service on its databases: gone and back, full, shared by processes, and not to be shared."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from files_api.app import FilesService
from files_api.settings import FilesSettings
from files_api.tables import IdempotencyRow, Organisation, StoredFileRow
from ocr_api import migrations
from tests import postgres
from tests.durability.process import ROOT, Recto

SOON = 10.0
"""Seconds within which the service works again once a fault has ended (R7)."""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.LocalCluster]:
    """A PostgreSQL that may be stopped."""
    with postgres.LocalCluster(postgres.programs()) as cluster:
        yield cluster


class Client:
    """Uploads with contents of its own, and remembers what was acknowledged."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.kept: dict[str, str] = {}
        """The SHA-256 of each file that the service said it has, by id."""
        self._random = random.Random(7)

    def upload(self, size: int = 2000) -> httpx.Response:
        content = self._random.randbytes(size)
        answer = httpx.post(
            f"{self.base}/v1/files",
            data={"purpose": "ocr"},
            files={"file": ("a.bin", content)},
            timeout=60,
        )
        if answer.status_code == 200:
            self.kept[answer.json()["id"]] = hashlib.sha256(content).hexdigest()
        return answer

    def check_kept(self) -> None:
        """Check that each acknowledged file is listed, and intact to the last byte."""
        listed = {file["id"] for file in self.get("/v1/files?limit=10000").json()["data"]}
        assert listed == set(self.kept)
        for file_id, digest in self.kept.items():
            content = self.get(f"/v1/files/{file_id}/content")
            assert content.status_code == 200, content.text
            assert hashlib.sha256(content.content).hexdigest() == digest

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.base + path, timeout=60)

    def delete(self, file_id: str) -> httpx.Response:
        answer = httpx.delete(f"{self.base}/v1/files/{file_id}", timeout=60)
        if answer.status_code == 200:
            self.kept.pop(file_id, None)
        return answer

    def until_it_takes_files(self) -> None:
        """Upload until it works again."""
        end = time.monotonic() + SOON
        while (answer := self.upload()).status_code != 200:
            assert answer.status_code in (503, 507), answer.text
            assert time.monotonic() < end, answer.text

    def until_it_is_ready(self) -> None:
        """Ask until readiness is looked at again: an answer is given for a second."""
        end = time.monotonic() + SOON
        while (answer := self.get("/readyz")).status_code != 200:
            assert time.monotonic() < end, answer.text


def check_outage(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def check_log(recto: Recto) -> None:
    """Check that nothing went wrong in a way that nobody thought of."""
    events = [json.loads(line) for line in recto.log.read_text("utf-8").splitlines()]
    assert [event for event in events if "trace" in event or event["level"] == "error"] == []


@contextmanager
def serving(recto: Recto) -> Iterator[Client]:
    recto.start()
    try:
        yield Client(recto.base)
    finally:
        recto.close()


# --- PostgreSQL, gone and back --------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
def test_a_database_that_goes_and_comes_back(
    server: postgres.LocalCluster, tmp_path: Path, crash: bool
) -> None:
    """R7: 503 with Retry-After, nothing acknowledged is lost, recovery without a restart."""
    with server.database() as url:
        recto = Recto(tmp_path, DATABASE_URL=url)
        recto.upgrade()
        with serving(recto) as client:
            for _ in range(5):
                assert client.upload().status_code == 200
            known = next(iter(client.kept))
            server.stop(crash=crash)
            try:
                for _ in range(2):
                    for answer in (
                        client.upload(),
                        client.get("/v1/files"),
                        client.get(f"/v1/files/{known}"),
                        client.get(f"/v1/files/{known}/content"),
                        client.delete(known),
                    ):
                        check_outage(answer, 503, "storage_unavailable")
                assert client.get("/readyz").status_code == 503
                assert client.get("/livez").status_code == 200
            finally:
                server.start()
            client.until_it_takes_files()
            client.until_it_is_ready()
            client.check_kept()
            assert client.delete(known).status_code == 200
            client.check_kept()
        check_log(recto)


def test_uploads_while_the_database_crashes(server: postgres.LocalCluster, tmp_path: Path) -> None:
    """R7: whatever was acknowledged while it went down, again and again, is there."""
    with server.database() as url:
        recto = Recto(tmp_path, DATABASE_URL=url)
        recto.upgrade()
        with serving(recto) as client:
            for _ in range(3):
                assert client.upload().status_code == 200
                several = [Client(client.base) for _ in range(4)]
                asyncio.run(_upload_until_refused(several, lambda: server.stop(crash=True)))
                server.start()
                for each in several:
                    client.kept |= each.kept
                client.until_it_takes_files()
            assert len(client.kept) > 6
            listed = {file["id"] for file in client.get("/v1/files?limit=10000").json()["data"]}
            # A commit whose answer was cut off may have happened: never acknowledged, no harm.
            assert listed >= set(client.kept)
            for file_id in listed - set(client.kept):
                assert client.delete(file_id).status_code == 200
            client.check_kept()
        check_log(recto)


async def _upload_until_refused(clients: list[Client], crash: Callable[[], None]) -> None:
    begun = asyncio.Event()

    async def go_on(client: Client) -> None:
        while (answer := await asyncio.to_thread(client.upload)).status_code == 200:
            begun.set()
        check_outage(answer, 503, "storage_unavailable")

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(go_on(client))
        await begun.wait()
        crash()


# --- PostgreSQL, shared ---------------------------------------------------------------------------


class Workers(Recto):
    """`recto serve --workers 2`."""

    def spawn(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0", "--workers", "2"],
                env=self._env,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def close(self) -> None:
        """End them in order: killed, the parent would leave its workers behind."""
        if self._process:
            assert self._end(signal.SIGTERM) == 0

    def workers(self) -> list[int]:
        """Return the processes that serve, once there are two that run their event loop."""
        assert self._process
        end = time.monotonic() + 30
        while True:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            pids = [int(pid) for pid in children.read_text().split()]
            ours = [
                pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            if len(ours) == 2 and all(_listens(pid) for pid in ours):
                return ours
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            time.sleep(0.05)  # they tell their parent only


def _listens(pid: int) -> bool:
    """Tell whether a worker has begun to draw, the last thing before it serves."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_workers_see_what_each_of_them_does(server: postgres.LocalCluster, tmp_path: Path) -> None:
    """One worker is stopped, so that the other must answer; then the other way round."""
    with server.database() as url:
        recto = Workers(tmp_path, DATABASE_URL=url)
        recto.upgrade()
        with serving(recto) as client:
            first, second = recto.workers()
            for stopped, running in ((first, second), (second, first)):
                os.kill(stopped, signal.SIGSTOP)
                try:
                    client.check_kept()  # what the other one took
                    for file_id in list(client.kept)[:1]:
                        assert client.delete(file_id).status_code == 200
                    assert [client.upload().status_code for _ in range(3)] == [200] * 3
                    assert running in recto.workers()
                finally:
                    os.kill(stopped, signal.SIGCONT)
            client.check_kept()
            assert len(client.kept) == 5
        check_log(recto)


def test_every_worker_reads_its_routes_again(server: postgres.LocalCluster, tmp_path: Path) -> None:
    """At SIGHUP to the parent, and none of them is replaced for it."""
    with server.database() as url:
        recto = Workers(tmp_path, DATABASE_URL=url)
        recto.upgrade()
        with serving(recto):
            before = recto.workers()
            os.kill(recto.pid, signal.SIGHUP)
            end = time.monotonic() + 30
            while (log := recto.log.read_text()).count('"routes_reloaded"') < 2:
                assert time.monotonic() < end, log[-2000:]
                time.sleep(0.05)  # they tell their log only
            assert sorted(recto.workers()) == sorted(before)
        check_log(recto)


@asynccontextmanager
async def several(count: int, folder: Path, url: str) -> AsyncIterator[list[FilesService]]:
    """Build the files service several times on one database and one folder of files."""
    made = []
    for number in range(count):
        settings = FilesSettings(
            data_dir=folder / str(number), database_url=url, blob_url=(folder / "blobs").as_uri()
        )
        made.append(FilesService(settings))
    try:
        for service in made:
            await service.open(migrations.upgrade)
        yield made
    finally:
        for service in made:
            await service.close()


async def test_sweeps_side_by_side_do_no_harm(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each thing is removed and counted once, whichever process removes it."""
    async with several(3, tmp_path, postgres_url) as services:
        first = services[0]
        local = first.local
        for number in range(60):
            received = await first.files.receive(local, _chunks(b"%d" % number))
            seconds = 3600 if number % 2 else None
            await first.files.keep(local, received, "a", "ocr", expires_in=seconds)
        async with first.database.unit() as session:
            for number in range(60):
                claim = {"claim": "c", "claimed_at": 1, "route": "r", "key": str(number)}
                session.add(IdempotencyRow(org_id=local.org_id, **claim))
        for service in services:
            assert service._sweeping is not None
            service._sweeping.cancel()  # its own first sweep, within half a minute, would count too
            for part in (service.files, service.files.expiry, service.uploads, service.idempotency):
                part._clock = lambda: time.time() + 7200
        swept = await asyncio.gather(*(service.sweep() for service in services))
        assert sum(each.get("expired_files", 0) for each in swept) == 30
        assert sum(each.get("old_idempotency_keys", 0) for each in swept) == 60
        assert "sweep_failed" not in caplog.text
        async with first.database.read() as session:
            rows = await session.scalar(select(func.count()).select_from(StoredFileRow))
            organisation = await session.get(Organisation, local.org_id)
        assert organisation
        assert (rows, organisation.stored_files) == (30, 30)
        assert [await service.sweep() for service in services] == [{}, {}, {}]


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_several_services_start_at_once(postgres_url: str, tmp_path: Path) -> None:
    async with several(4, tmp_path, postgres_url) as services:
        assert {service.local.org_id for service in services} == {services[0].local.org_id}


# --- which databases are refused ------------------------------------------------------------------


def refused(recto: Recto) -> str:
    """Start a service that must not start; return what it said."""
    with recto.log.open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0"],
            env=recto._env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, b"")
    return recto.log.read_text("utf-8")


def test_a_second_process_on_a_file_is_refused(tmp_path: Path) -> None:
    first, second = (Recto(tmp_path / name) for name in ("first", "second"))
    second._env["RECTO_DATA_DIR"] = str(first.data)
    with serving(first) as client:
        assert client.upload().status_code == 200
        said = refused(second)
        assert f"another process serves from {first.data}/recto.db: stop it" in said
        assert "Traceback" not in said
        done = subprocess.run(
            [sys.executable, "-m", "ocr_api.cli", "orgs", "list"],
            env=first._env,
            cwd=ROOT,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, b"local" in done.stdout) == (0, True)
        client.check_kept()
    # The first was killed: its lock went with it.
    with serving(second) as client:
        assert len(client.get("/v1/files").json()["data"]) == 1


def test_a_database_that_nobody_upgraded_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """R22: the operator is told the command."""
    recto = Recto(tmp_path, DATABASE_URL=postgres_url)
    assert "recto db upgrade" in refused(recto)
    assert postgres.PASSWORD not in recto.log.read_text("utf-8")
    recto.upgrade()
    with serving(recto) as client:
        assert client.upload().status_code == 200


# --- full disks -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or not _mount(folder, "size=4m"):
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "recto-test", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _fill(path: Path, but: int) -> None:
    """Write a file until the disk is full, then give so many bytes back."""
    # Not by what the disk says is free: the server writes, too, while it starts.
    with path.open("wb", buffering=0) as ballast:
        with suppress(OSError):
            while ballast.write(b"\0" * 4096) == 4096:
                pass
        ballast.truncate(ballast.tell() - but)


@pytest.mark.parametrize("what", ["everything", "database", "files"])
def test_a_disk_that_is_full(small_disk: Path, tmp_path: Path, what: str) -> None:
    """R7: 507 with Retry-After, nothing acknowledged is lost, recovery without a restart."""
    places = {
        "everything": {"DATA_DIR": str(small_disk / "data")},
        "database": {"DATABASE_URL": f"sqlite:///{small_disk / 'recto.db'}"},
        "files": {"BLOB_URL": (small_disk / "blobs").as_uri()},
    }
    recto = Recto(tmp_path / "recto", **places[what])
    with serving(recto) as client:
        if what == "database":
            # What is left for the database: less than its log needs for one more file.
            _fill(small_disk / "ballast", but=8192)
        size = 40 if what == "database" else 100_000
        while (answer := client.upload(size)).status_code == 200:
            assert len(client.kept) < 2000
        check_outage(answer, 507, "storage_full")
        check_outage(client.upload(size), 507, "storage_full")
        client.check_kept()
        known = next(iter(client.kept), None)
        if known:
            gone = client.delete(known)
            if gone.status_code != 200:
                check_outage(gone, 507, "storage_full")
            client.check_kept()
        assert _mount(small_disk, "remount,size=64m")
        client.until_it_takes_files()
        assert client.upload(size).status_code == 200
        client.check_kept()
        for file_id in list(client.kept)[:3]:
            assert client.delete(file_id).status_code == 200
        client.check_kept()
    check_log(recto)


# --- the same answers on both ---------------------------------------------------------------------

BIG = 10**30
ODD: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/v1/files", {"params": {"page": page, "page_size": size}})
    for page in (0, 2**31, 2**62, 2**63, BIG, -1)
    for size in (1, 100)
] + [
    ("GET", "/v1/files", {"params": {name: value}})
    for name in ("after", "purpose", "search", "limit", "order", "sample_type", "source")
    for value in ("\x00", "a\x00b", "\ud800".encode("utf-8", "surrogatepass"), "%", "'", "x" * 5000)
] + [
    ("POST", "/v1/files", {"files": {"file": (name, b"x")}, "data": {"purpose": purpose}})
    for name, purpose in (
        ("a\x00b.pdf", "ocr"), ("x" * 600, "ocr"), ("a.pdf", "\x00"), ("a.pdf", "a\x00b"),
        ("a.pdf", "x" * 65), ("\U0001f4c4.pdf", "ocr"), ("a.pdf", "\U0001f4c4"),
    )
] + [
    ("POST", "/v1/files", {"files": {"file": ("a", b"x")}, "data": {"purpose": "ocr", name: value}})
    for name in ("expiry", "expires_after[seconds]", "visibility")
    for value in ("0", "1", str(2**31), str(2**63), str(BIG), "-1", "\x00")
] + [
    ("POST", "/v1/files", {"files": {"file": ("a", b"x")}, "headers": {"idempotency-key": key}})
    for key in ("k", "x" * 256, "'; --", b"\xff")
] + [
    (method, f"/v1/files/{file_id}", {})
    for method in ("GET", "DELETE")
    for file_id in ("%00", "a%00b", "'", "0" * 36, "%ff", "x" * 4000)
]  # fmt: skip


def test_odd_values_are_answered_alike(postgres_url: str, tmp_path: Path) -> None:
    """R9: what SQLite takes PostgreSQL may refuse (a NUL, a number beyond 64 bits)."""
    answers: list[list[tuple[int, str | None]]] = []
    for kind, settings in (("sqlite", {}), ("postgresql", {"DATABASE_URL": postgres_url})):
        recto = Recto(tmp_path / kind, **settings)
        if settings:
            recto.upgrade()
        with serving(recto) as client, httpx.Client(base_url=client.base, timeout=60) as http:
            found = []
            for method, path, request in ODD:
                answer = http.request(method, path, **request)
                body = answer.json()
                found.append((answer.status_code, body.get("code")))
            answers.append(found)
        check_log(recto)
    for asked, here, there in zip(ODD, *answers, strict=True):
        assert here == there, asked
        assert here[0] < 500, asked
