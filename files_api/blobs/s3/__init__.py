"""Blobs in a store that speaks S3, at ``s3://bucket/prefix?endpoint=https://host&region=name``.

Why obstore: multipart uploads that stream with bounded memory and abort themselves, in a small
wheel without botocore, whose versions clash with everybody's.

What is asked of the store: what is put is seen at once, and nothing of a multipart upload before
its end. ``If-None-Match: *`` (create, never overwrite) is used where the store knows it.

A presigned link is made by obstore, which knows the credentials wherever they come from, and
signed once more with the name and the type of the download, which obstore cannot add.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

import obstore

from files_api.blobs import BlobExists, BlobMissing, BlobStore, StoredBlob, check_key
from files_api.blobs.s3 import client, copies
from files_api.blobs.s3.client import as_app_errors, code_of, connect, seconds_for, status_of
from files_api.blobs.s3.place import parse
from files_api.blobs.s3.signing import sign_again
from files_api.kit.errors import StorageFull, StorageUnavailable
from files_api.kit.filenames import attachment
from files_api.kit.ids import new_id
from files_api.kit.tasks import finished

_CHUNK = 1024 * 1024
_CHECK = ".check"  # no key of a blob, so it is never listed
_MARK = "recto-write"
"""Metadata of a small blob: by this a writer knows its own again, when an answer got lost."""

Answer = TypeVar("Answer")


class S3Blobs(BlobStore):
    """Objects under a prefix in a bucket.

    Credentials are never part of the URL. obstore finds them where the AWS SDKs do, but for
    ``~/.aws``: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and ``AWS_SESSION_TOKEN``; a
    role for a web identity (``AWS_WEB_IDENTITY_TOKEN_FILE``, ``AWS_ROLE_ARN``); that of the
    container; that of the machine. Its other variables work too, such as
    ``AWS_SERVER_SIDE_ENCRYPTION``; those that the URL speaks of yield to the URL. Where the
    store's certificate is of a private authority, ``SSL_CERT_FILE`` names that.

    They must allow ``s3:PutObject``, ``GetObject``, ``DeleteObject``, ``AbortMultipartUpload``
    on the prefix and ``ListBucket`` on the bucket. (Without the last, Amazon says "forbidden"
    of what is missing.)
    """

    makes_copies = True

    def __init__(self, url: str) -> None:
        """Take ``s3://bucket/prefix?name=value&…``; the prefix and all options may be left out.

        ``endpoint``: the server, ``https://host`` or ``http://host:port``, without the bucket;
        Amazon's if left out. ``region``: else ``AWS_REGION``, else ``us-east-1``. ``style``:
        where the bucket stands, ``path`` (the default) or ``virtual`` (in front of the host).

        Raises:
            ValueError: the URL is not like this.
        """
        self._store = connect(parse(url))
        self._knows_create = True

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a blob; see `BlobStore.put`.

        One of up to 8 MiB is created if absent by the store, or, where the store says that it
        cannot, after a look. A larger one is always written after a look, because multipart
        uploads know no other way: of two writers of one key at the same moment the later would
        win. Keys are unique ids of ours, so there is one writer.

        When no answer comes, the store may still have done what was asked: a blob may be left
        that nobody knows of, or parts of one (see `sweep`).
        """
        check_key(key)
        waiting = bytearray()
        async for chunk in chunks:
            waiting += chunk
            if len(waiting) >= client.PART:
                await self._put_in_parts(key, waiting, chunks)
                return
        await self._publish(key, self._put_whole(key, bytes(waiting)))

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield a blob's bytes; see `BlobStore.read`.

        A connection that breaks on the way is followed by another that goes on from there.
        """
        check_key(key)
        if stop is not None and stop <= start:
            await self._ask(obstore.head_async(self._store, key), key)
            return
        while stop is None or start < stop:
            answer = await self._get(key, start, stop)
            if answer is None:
                return
            before, stop = start, answer.range[1]
            stream, failure = answer.stream(min_chunk_size=_CHUNK // 2), None
            try:
                while found := await self._ask(anext(stream, None)):
                    for piece in _pieces(bytes(found)):
                        start += len(piece)
                        yield piece
            except StorageUnavailable as error:
                failure = error
            if start == before < stop:
                raise failure or StorageUnavailable

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """Give a copy in the system's temporary folder; see `BlobStore.local`.

        It goes at the end of the block; those of dead processes are swept (`sweep`).
        """
        check_key(key)
        copy = copies.Copy()
        try:
            with as_app_errors():
                await finished(asyncio.to_thread(copy.open))
            async for chunk in self.read(key):
                with as_app_errors():
                    await finished(asyncio.to_thread(copy.write, chunk))
            yield copy.path
        finally:
            copy.remove()

    async def delete(self, key: str) -> None:
        """Delete a blob; see `BlobStore.delete`."""
        with suppress(BlobMissing):
            await self._ask(obstore.delete_async(self._store, check_key(key)), key)

    async def check(self) -> None:
        """Write an object of one byte and delete it."""
        await self._ask(obstore.put_async(self._store, _CHECK, b"\0", use_multipart=False))
        await self._ask(obstore.delete_async(self._store, _CHECK))

    async def blobs(self) -> AsyncIterator[StoredBlob]:
        """Yield every blob; see `BlobStore.blobs`. Objects that are not ours are passed over."""
        listing = obstore.list(self._store, chunk_size=1000)
        while found := await self._ask(anext(listing, None)):
            for each in found:
                with suppress(ValueError):
                    key, modified = check_key(each["path"]), each["last_modified"]
                    yield StoredBlob(key, each["size"], modified.timestamp())

    async def sweep(self) -> int:
        """Remove the local copies of dead processes; return how many.

        Not the multipart uploads that a killed process leaves: obstore cannot list them. The
        bucket needs a lifecycle rule AbortIncompleteMultipartUpload for those.
        """
        with as_app_errors():
            return await finished(asyncio.to_thread(copies.sweep))

    async def presign(self, key: str, seconds: int, *, filename: str, media_type: str) -> str:
        """Return a presigned link; see `BlobStore.presign`.

        With credentials of a role, of which obstore alone knows the secret, the name and the
        type are left out: the download is called like the end of the key.
        """
        life = timedelta(seconds=seconds)
        signed = obstore.sign_async(self._store, "GET", check_key(key), life)
        url = str(await self._ask(signed))
        secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        signer = dict(parse_qsl(urlsplit(url).query))["X-Amz-Credential"].split("/")[0]
        if not secret or signer != os.environ.get("AWS_ACCESS_KEY_ID"):
            return url
        answer = {
            "response-content-disposition": attachment(filename),
            "response-content-type": media_type,
        }
        return sign_again(url, secret, answer)

    async def close(self) -> None:
        """Wait a moment, so that the client's threads are through with what was cancelled.

        Why: a thread of Rust that lets go of a Python object while the interpreter ends aborts
        the process (seen in a quarter of the runs that ended right after a cancelled request).
        """
        await asyncio.sleep(0.05)

    async def _put_whole(self, key: str, data: bytes) -> None:
        if self._knows_create and await self._create(key, data):
            return
        await self._refuse_taken(key)
        put = obstore.put_async(self._store, key, data, use_multipart=False)
        await self._ask(put, seconds=seconds_for(data))

    async def _create(self, key: str, data: bytes) -> bool:
        """Create if absent; tell whether the store knows how."""
        mark, put = new_id(), partial(obstore.put_async, self._store, key, data)
        try:
            created = put(mode="create", attributes={_MARK: mark}, use_multipart=False)
            await self._ask(created, seconds=seconds_for(data))
        except BlobExists:
            # After a lost answer, a further try meets what the first one wrote.
            if await self._mark_of(key) != mark:
                raise BlobExists(key) from None
        except StorageUnavailable as error:
            if code_of(error.__cause__) != "NotImplemented":
                raise
            self._knows_create = False
        return self._knows_create

    async def _put_in_parts(
        self, key: str, waiting: bytearray, chunks: AsyncIterator[bytes]
    ) -> None:
        await self._refuse_taken(key)
        writer = obstore.open_writer_async(
            self._store, key, buffer_size=client.PART, max_concurrency=client.PARTS_IN_FLIGHT
        )

        async def send(data: bytearray) -> None:
            with as_app_errors():
                await finished(writer.write(bytes(data)))

        try:
            await send(waiting)
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= _CHUNK:
                    await send(waiting)
                    waiting = bytearray()
            await send(waiting)
        except BaseException as error:
            with suppress(*client.ERRORS):  # left with an error, it aborts the upload
                await finished(writer.__aexit__(type(error), error, error.__traceback__))
            raise
        await self._publish(key, self._complete(key, writer))

    async def _complete(self, key: str, writer: obstore.AsyncWritableFile) -> None:
        """Publish the parts; when that fails, obstore aborts the upload."""
        try:
            with as_app_errors():
                await writer.close()
        except (StorageUnavailable, StorageFull):
            # The answer may be all that was lost. The key was free, so what is there is ours.
            await self._forget(key)
            raise

    async def _publish(self, key: str, work: Awaitable[None]) -> None:
        """Do the step that publishes a blob; take it back when the caller was cancelled."""
        task = asyncio.ensure_future(work)
        try:
            await finished(task)
        except asyncio.CancelledError:
            if task.exception() is None:
                await finished(self._forget(key))
            raise

    async def _forget(self, key: str) -> None:
        with suppress(StorageUnavailable, StorageFull):
            await self.delete(key)

    async def _refuse_taken(self, key: str) -> None:
        with suppress(BlobMissing):
            await self._ask(obstore.head_async(self._store, key), key)
            raise BlobExists(key)

    async def _mark_of(self, key: str) -> object:
        options: obstore.GetOptions = {"head": True}
        answer = await self._ask(obstore.get_async(self._store, key, options=options))
        return answer.attributes.get(_MARK)

    async def _get(self, key: str, start: int, stop: int | None) -> obstore.GetResult | None:
        """Return the answer that carries a range; None when the range is beyond the end."""
        options: obstore.GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        try:
            return await self._ask(obstore.get_async(self._store, key, options=options), key)
        except StorageUnavailable as error:
            if status_of(error.__cause__) != "416":  # Range Not Satisfiable (RFC 9110, 15.5.17)
                raise
            return None

    async def _ask(
        self, work: Awaitable[Answer], key: str | None = None, *, seconds: float | None = None
    ) -> Answer:
        """Return the store's answer; ``key`` if a missing object is a missing blob."""
        with as_app_errors(key):
            async with asyncio.timeout(seconds or client.ANSWER_SECONDS):
                return await work


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
