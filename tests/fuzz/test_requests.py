"""R9: whatever a client sends, it gets a documented answer, and nothing else changes.

The requests come as bytes, past any HTTP client, to the whole application with the fake engine.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from files_api.accounts import ALL_SCOPES, Organisations
from files_api.files.installation import MARKERS
from files_api.keys import Keys
from files_api.kit.db import Database
from files_api.links import load_or_make_secret
from files_api.tables import StoredFileRow, UploadPartRow
from ocr_api import app, migrations
from ocr_api.settings import Settings
from tests.conftest import running
from tests.fuzz.hostile import PDF, Maker, Request
from tests.fuzz.service import echo_only
from tests.fuzz.wire import Answer, ask, check_error

SEED = 20_261_121
COUNT = 10_000 if os.environ.get("RECTO_SOAK") else 2_000
"""Requests in all; every run of the same length sends the same ones."""


@dataclass
class Ledger:
    """What the answers say there is."""

    files: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)
    """Seconds of processor time for each: a busy machine says nothing about us."""
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def house(settings: Settings, *, with_keys: bool) -> AsyncIterator[tuple[Any, Maker]]:
    """Run the service; give it, and a maker of requests for it."""
    keys: list[str] = []
    if with_keys:
        settings.data_dir.mkdir()
        database = Database(settings.effective_database_url())
        await migrations.upgrade(database)
        secret = load_or_make_secret(settings.data_dir)
        owner = await Organisations(database).create("own")
        keys.append((await Keys(database, secret).make(owner, scopes=ALL_SCOPES))[1])
        await database.close()
    service = app.create(settings)
    async with running(service):
        document = service.app.openapi()  # type: ignore[attr-defined]
        yield service, Maker(document, SEED + with_keys, tuple(f"Bearer {key}" for key in keys))


def check(request: Request, answer: Answer, ledger: Ledger) -> None:
    """Check what holds for every answer; note what it says there is."""
    if answer.status in {0, 499}:
        assert request.leaves
        return
    assert answer.status < 500
    assert len(answer.header(b"x-request-id")) == 1
    ledger.statuses[answer.status] += 1
    if answer.status >= 400:
        if request.method != "HEAD":
            ledger.codes[check_error(answer)] += 1
        return
    if not answer.body.startswith(b'{"id"'):
        return
    body = answer.json()
    if body.get("deleted"):
        ledger.files.discard(body["id"])
    elif body.get("object") == "file" and request.method == "POST":
        ledger.files.add(body["id"])
    elif isinstance(body.get("file"), dict):
        ledger.files.add(body["file"]["id"])


async def bombard(service: Any, maker: Maker, count: int) -> Ledger:
    """Send the requests, one after the other."""
    ledger = Ledger()
    for _ in range(count):
        request = maker.make()
        begun = time.process_time()
        answer = await ask(
            service,
            request.method,
            request.target,
            request.headers,
            request.pieces,
            leaves=request.leaves,
        )
        try:
            check(request, answer, ledger)
        except Exception as error:  # noqa: BLE001 - all are wanted, not only the first
            ledger.failures.append(f"{error!r:.200}: {request}\n-> {answer}"[:4000])
        if answer.status >= 400:
            ledger.refusals.append(time.process_time() - begun)
        elif answer.body.startswith(b'{"id"'):
            body = answer.json()
            known = maker.uploads if "upload" in str(body.get("object")) else maker.files
            known.append(body["id"])
    return ledger


async def check_works(service: Any, maker: Maker, keys: tuple[str, ...]) -> None:
    """Upload, read, download and delete a file, as if nothing had happened."""
    headers = [(b"authorization", key.encode()) for key in keys]
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
    form = [*headers, (b"content-type", b"multipart/form-data; boundary=b")]
    made = await ask(service, "POST", b"/v1/files", form, [head + PDF + b"\r\n--b--\r\n"])
    assert made.status == 200, made.body
    path = f"/v1/files/{made.json()['id']}".encode()
    assert (await ask(service, "GET", path + b"/content", headers)).body == PDF
    read = await ask(service, "POST", path + b"/ocr", headers, [b'{"model": "echo"}'])
    assert read.status == 200, read.body
    assert len(read.json()["pages"]) == 1
    assert (await ask(service, "DELETE", path, headers)).status == 200
    assert (await ask(service, "GET", b"/readyz", headers)).status == 200


async def check_nothing_is_left(settings: Settings, ledger: Ledger) -> None:
    """Compare rows and blobs with what the answers said; nobody asked for anything else."""
    database = Database(settings.effective_database_url())
    async with database.read() as session:
        rows = (await session.execute(select(StoredFileRow.id, StoredFileRow.blob_key))).all()
        parts = (await session.execute(select(UploadPartRow))).scalars().all()
    await database.close()
    assert {row.id for row in rows} == ledger.files
    blobs = settings.data_dir / "blobs"
    found = {
        str(path.relative_to(blobs))
        for path in blobs.rglob("*")
        if path.is_file() and not path.relative_to(blobs).parts[0].startswith(".tmp")
    }
    assert found - MARKERS == {row.blob_key for row in rows} | {part.blob_key for part in parts}
    temporary = [path for path in (blobs / ".tmp").rglob("*") if path.is_file()]
    assert temporary == []
    scratch = settings.data_dir / "scratch"
    assert list(scratch.rglob("recto-*")) == []


@pytest.mark.parametrize(("with_keys", "share"), [(True, 0.7), (False, 0.3)], ids=["keys", "local"])
async def test_r9_hostile_requests_never_crash_and_leave_nothing(
    with_keys: bool,
    share: float,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = echo_only(settings, tmp_path)
    caplog.set_level(logging.WARNING)
    async with house(settings, with_keys=with_keys) as (service, maker):
        count = round(COUNT * share)
        ledger = await bombard(service, maker, count)
        assert ledger.failures == [], "\n\n".join(ledger.failures[:10])
        await check_works(service, maker, maker._keys)
        await check_nothing_is_left(settings, ledger)
    print(f"\n{count} requests: {dict(ledger.statuses)}\n{dict(ledger.codes)}")
    assert [record.message for record in caplog.records if record.message == "unhandled"] == []
    assert "internal_error" not in ledger.codes
    # Each kind of answer was reached: the requests are not all stopped at the same door.
    assert {200, 400, 404, 405, 422} <= set(ledger.statuses)
    assert len(ledger.codes) >= 12
    slowest = sorted(ledger.refusals)[-len(ledger.refusals) // 100]
    print(f"p99 of refusals: {slowest * 1000:.1f} ms")
    assert slowest < 0.1
