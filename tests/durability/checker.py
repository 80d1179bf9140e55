"""What must be true of a database and a blob store at any moment, looked at past the service."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import text

from files_api.blobs import BlobMissing, BlobStore, open_store
from files_api.files.installation import MARKERS
from files_api.kit.db import Database
from tests import s3server

Row = dict[str, Any]


class Stores:
    """A database and a blob store, opened by their URLs, for looking only."""

    def __init__(self, database_url: str, blob_url: str) -> None:
        self.database = Database(database_url)
        self.blobs = open_store(blob_url)
        self.blob_url = blob_url

    async def __aenter__(self) -> Stores:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()
        await self.blobs.close()

    async def rows(self, query: str) -> list[Row]:
        """Return what a query finds."""
        async with self.database.read() as session:
            return [dict(row) for row in (await session.execute(text(query))).mappings()]


async def problems(stores: Stores, *, swept: bool, gone: Collection[str] = ()) -> list[str]:
    """Return every broken invariant, in words; the empty list is the aim.

    Args:
        stores: where to look.
        swept: whether a sweep with all graces over came last, so that nothing may be left over.
        gone: files that were deleted on purpose; remembered answers may still name them.
    """
    files = await stores.rows("SELECT * FROM files")
    uploads = await stores.rows("SELECT * FROM uploads")
    parts = await stores.rows("SELECT * FROM upload_parts")
    return [
        *await _blob_problems(stores.blobs, [*files, *parts], swept),
        *await _count_problems(stores, files, uploads),
        *_upload_problems(files, uploads, parts, gone, swept),
        *_answer_problems(await stores.rows("SELECT * FROM idempotency_keys"), files, gone),
    ]


async def _blob_problems(blobs: BlobStore, rows: Sequence[Row], swept: bool) -> list[str]:
    """Each row has its bytes; after a sweep, each blob has its row."""
    found = []
    for row in rows:
        try:
            content = b"".join([chunk async for chunk in blobs.read(row["blob_key"])])
        except BlobMissing:
            found.append(f"{row['id']}: a row without a blob")
            continue
        if len(content) != row["bytes"]:
            found.append(f"{row['id']}: {len(content)} bytes, the row says {row['bytes']}")
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            found.append(f"{row['id']}: another content than the row says")
    keys = Counter(row["blob_key"] for row in rows)
    found += [f"{key}: {count} rows share a blob" for key, count in keys.items() if count > 1]
    if swept:
        orphans = {blob.key async for blob in blobs.blobs()} - keys.keys() - MARKERS
        found += [f"{key}: a blob without a row" for key in sorted(orphans)]
    return found


async def _count_problems(
    stores: Stores, files: Sequence[Row], uploads: Sequence[Row]
) -> list[str]:
    """What an organisation's row counts is what it has."""
    found = []
    for org in await stores.rows("SELECT * FROM organisations"):
        pending = [row for row in uploads if row["status"] == "pending"]
        its = [row["bytes"] for row in [*files, *pending] if row["org_id"] == org["id"]]
        counted = (org["stored_bytes"], org["stored_files"])
        if counted != (sum(its), len(its)):
            found.append(f"counted {counted}, but there are {(sum(its), len(its))}")
    return found


def _upload_problems(
    files: Sequence[Row],
    uploads: Sequence[Row],
    parts: Sequence[Row],
    gone: Collection[str],
    swept: bool,
) -> list[str]:
    """Parts belong to pending uploads; a completed upload became one file."""
    states = {row["id"]: row["status"] for row in uploads}
    ids = {row["id"] for row in files} | set(gone)
    found = [
        f"{part['id']}: a part of an upload that is {states.get(part['upload_id'])}"
        for part in parts
        if states.get(part["upload_id"]) != "pending"
    ]
    found += [
        f"{row['id']}: completed, but its file {row['file_id']} is not there"
        for row in uploads
        if row["status"] == "completed" and row["file_id"] not in ids
    ]
    late = [row for row in uploads if row["status"] == "pending" and row["expires_at"] < _now()]
    if swept:
        found += [f"{row['id']}: pending after its time" for row in late]
    return found


def _answer_problems(keys: Sequence[Row], files: Sequence[Row], gone: Collection[str]) -> list[str]:
    """A remembered answer about a file names one that exists."""
    ids = {row["id"] for row in files} | set(gone)
    found = []
    for row in keys:
        answer = json.loads(row["answer"] or "{}")
        file = answer.get("file") or answer
        if file.get("object") == "file" and file["id"] not in ids:
            found.append(f"{row['route']}: an answer about {file['id']}, which is not there")
    return found


def left_over(blob_url: str) -> list[str]:
    """Return the writes that never ended: temporary files, or open multipart uploads."""
    if urlsplit(blob_url).scheme == "s3":
        return s3server.open_uploads(blob_url)
    folder = Path(unquote(urlsplit(blob_url).path)) / ".tmp"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _now() -> float:
    return time.time()
