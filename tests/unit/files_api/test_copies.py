"""Files are read from this machine's disk: those of an S3 store take room there meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from files_api.accounts import Principal, ensure_local
from files_api.blobs import open_store
from files_api.files import Files
from files_api.kit.db import Base, Database
from files_api.kit.errors import AppError, RateLimited
from files_api.links import Links
from files_api.quota import Quota
from tests import helpers

SIZE = 900


async def _content() -> AsyncIterator[bytes]:
    yield b"%PDF-1.7".ljust(SIZE)


async def test_copies_take_room_while_they_are_open(tmp_path: Path, blob_url: str) -> None:
    """An organisation may have one and a half; a folder's files are opened where they are."""
    database, blobs = Database(f"sqlite:///{tmp_path / 'some.db'}"), open_store(blob_url)
    await database.run_sync(Base.metadata.create_all)
    room = helpers.room(3 * SIZE)
    links = Links(b"s" * 32, public_url="http://recto.test")
    files = Files(database, blobs, links, Quota(), 1000, room=room)
    try:
        me = await ensure_local(database)
        received = await files.receive(me, _content())
        record = await files.keep(me, received, "a.pdf", "ocr")
        for _ in range(2):  # room comes back
            async with files.open_file(me, record.id) as one:
                assert one.path.stat().st_size == SIZE
                assert room.held == (SIZE if blobs.makes_copies else 0)
                refused: AppError | None = None
                try:
                    async with files.open_file(me, record.id) as two:
                        assert two.path == one.path
                except RateLimited as error:
                    refused = error
                assert (refused is not None) == blobs.makes_copies
        assert room.held == 0
        url, _ = await files.sign(me, record.id, "http://recto.test", 60)
        with room.hold(me.org_id) as all_that_is_mine:
            all_that_is_mine.take(SIZE)
            async with files.open_link(Principal("somebody else"), url) as file:  # and it is theirs
                assert file is not None
                assert room.held == (2 * SIZE if blobs.makes_copies else SIZE)
        assert blobs.makes_copies == blob_url.startswith("s3:")
    finally:
        await blobs.close()
        await database.close()
