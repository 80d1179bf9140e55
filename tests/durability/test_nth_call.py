"""R8: each call of the blob store, the database and the engine fails once, wherever it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from files_api.app import FilesService
from files_api.idempotency import CLAIM_SECONDS
from files_api.kit.errors import StorageFull, StorageUnavailable, every_error
from ocr_api import app as ocr_app
from ocr_api import migrations
from ocr_api.settings import Settings
from tests import helpers
from tests.conftest import running
from tests.durability.checker import Stores, problems
from tests.durability.conftest import LATER, set_clocks
from tests.durability.faults import Faults, When
from tests.durability.scale import SOAK

PDF = helpers.pages_pdf(2)
DOCUMENTED = {(cls.status, cls.code) for cls in every_error() if cls.status in {500, 503, 507}}
MOST_CALLS = 100
"""More than any story makes; a story that never ends its faults is a fault of the test."""

Story = Callable[["Client"], Awaitable[None]]


class GaveUp(Exception):
    """The service answered an error, and the client does not try again."""


@dataclass
class Client:
    """A client that gives up at the first error, or tries again with the same key."""

    house: House
    key: str
    stubborn: bool = False
    errors: list[tuple[int, str]] = field(default_factory=list)

    async def ask(self, method: str, path: str, *, mark: int = 0, **body: Any) -> dict[str, Any]:
        """Return the JSON of a 200; note what any other answer says."""
        headers = {"Idempotency-Key": f"{self.key} {mark}"} if method == "POST" else {}
        for _ in range(3):
            answer = await self.house.http.request(method, path, headers=headers, **body)
            if answer.status_code == 200:
                return dict(answer.json())
            error = answer.json()["error"]
            self.errors.append((answer.status_code, error["code"]))
            assert answer.headers["x-request-id"]
            if method == "DELETE" and answer.status_code == 404 and len(self.errors) > 1:
                return {}  # the first one did it, and its answer was lost
            if not self.stubborn:
                raise GaveUp(answer.text)
            if error["code"] == "idempotency_key_in_use":
                self.house.wait(CLAIM_SECONDS + 1)  # the fault was where the key was given back
        raise AssertionError(f"{method} failed three times: {self.errors}")


async def whole(client: Client) -> None:
    """Upload in one request, read, delete."""
    form = {"file": ("a.pdf", PDF)}
    file = await client.ask("POST", "/v1/files", files=form, data={"purpose": "ocr"})
    await _read_and_delete(client, file)


async def in_parts(client: Client) -> None:
    """Upload in two parts, read, delete."""
    asked = {"bytes": len(PDF), "filename": "a.pdf", "mime_type": "a/b", "purpose": "ocr"}
    upload = await client.ask("POST", "/v1/uploads", json=asked)
    path = f"/v1/uploads/{upload['id']}"
    ids = []
    for place, data in enumerate((PDF[:100], PDF[100:])):
        form = {"data": (f"part{place}", data)}
        ids.append((await client.ask("POST", f"{path}/parts", mark=place, files=form))["id"])
    done = await client.ask("POST", f"{path}/complete", json={"part_ids": ids})
    await _read_and_delete(client, done["file"])


async def _read_and_delete(client: Client, file: dict[str, Any]) -> None:
    assert file["bytes"] == len(PDF)
    answer = await client.ask("POST", f"/v1/files/{file['id']}/ocr", json={"model": "echo"})
    assert [page["index"] for page in answer["pages"]] == [0, 1]
    client.house.gone.add(file["id"])
    await client.ask("DELETE", f"/v1/files/{file['id']}")


@dataclass
class House:
    """The whole service over ASGI, between whose parts faults stand."""

    http: httpx.AsyncClient
    faults: Faults
    files: FilesService
    stores: Stores
    gone: set[str] = field(default_factory=set)
    """Files that were deleted, or nearly."""
    ahead: float = 0

    def wait(self, seconds: float) -> None:
        """Let the service's clocks go forward."""
        self.ahead += seconds
        set_clocks(self.files, self.ahead)

    async def problems(self) -> list[str]:
        return await problems(self.stores, swept=False, gone=self.gone)


@pytest.fixture
async def house(
    settings: Settings,
    database_url: str,
    blob_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[House]:
    faults = Faults()
    faults.install(monkeypatch)
    made: list[FilesService] = []

    class Kept(FilesService):
        def __init__(self, given: Any) -> None:
            super().__init__(given)
            made.append(self)

    monkeypatch.setattr("ocr_api.app.FilesService", Kept)
    # Each request asks for keys and limits: what is asked only now and then would not always be
    # struck.
    monkeypatch.setattr("files_api.keys.ASK_SECONDS", 0.0)
    monkeypatch.setattr("files_api.keys.TRUST_SECONDS", 0.0)
    async with Stores(database_url, blob_url) as stores:
        await migrations.upgrade(stores.database)  # PostgreSQL is not by the service itself
    # Without the ledger: whether its pages are written before a file is deleted depends on the
    # moment, and so would the number of calls. Its own tests take its database away.
    update = {"database_url": database_url, "blob_url": blob_url, "ledger_hours": 0}
    service = ocr_app.create(settings.model_copy(update=update))
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
        Stores(database_url, blob_url) as stores,
    ):
        yield House(http, faults, made[0], stores)


_CASES: list[tuple[When, type[Exception], bool]] = [
    ("before", StorageUnavailable, False),
    ("after", StorageUnavailable, True),
    # The long run tries the rest, too.
    ("before", StorageFull, True),
    ("after", RuntimeError, False),
    ("after", StorageUnavailable, False),
    ("before", StorageUnavailable, True),
]


@pytest.mark.parametrize("kind", ["local", "remote"] if SOAK else ["local"], indirect=True)
@pytest.mark.parametrize("story", [whole, in_parts])
@pytest.mark.parametrize(("when", "error", "stubborn"), _CASES if SOAK else _CASES[:2])
async def test_r8_every_call_fails_once(
    house: House, story: Story, when: When, error: type[Exception], stubborn: bool
) -> None:
    """R8: after each fault every invariant holds, and the story goes well at the next try."""
    struck: list[str] = []
    with house.faults.armed(None):
        await story(Client(house, "clean"))
        calls = house.faults.calls
    for number in range(MOST_CALLS):
        client = Client(house, f"{number}", stubborn)
        with house.faults.armed(number, when, error):
            try:
                await story(client)
            except GaveUp:
                assert house.faults.struck
            if not house.faults.struck:
                break
            struck.append(house.faults.calls[number])
        assert set(client.errors[:1]) <= DOCUMENTED, struck
        assert await house.problems() == [], struck
        if client.errors and not stubborn:
            await story(Client(house, f"again {number}"))
    assert {"blobs.put", "blobs.delete", "database.unit", "engine.read"} <= set(calls)
    assert struck == calls
    house.wait(LATER)
    await house.files.sweep()
    assert await problems(house.stores, swept=True, gone=house.gone) == []
