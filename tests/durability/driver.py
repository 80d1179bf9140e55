"""Uploads of many clients at once to a server that dies in between, and a record of its answers.

Clients behave as real ones do: what was not answered is sent again where that is safe (a part, a
request with an Idempotency-Key), else given up.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import httpx

from tests.durability.process import Recto

MIB = 2**20
AT_ONCE = 8
Way = Literal["single", "keyed", "parts"]


@dataclass(frozen=True)
class Upload:
    """One file to upload."""

    name: str
    way: Way
    content: bytes = field(repr=False)
    cuts: tuple[int, ...]
    """Where the parts end."""
    key: str | None
    """Idempotency-Key of its POSTs."""
    twice: bool
    """Whether it is sent again after it was answered: the client had not heard it, say."""
    then_delete: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def parts(self) -> list[bytes]:
        edges = [0, *self.cuts, len(self.content)]
        return [self.content[a:b] for a, b in pairwise(edges)]


@dataclass
class History:
    """What the server said, and what was then true for a client."""

    acknowledged: dict[str, Upload] = field(default_factory=dict)
    """By file id: each got a 2xx."""
    answers: dict[str, set[str]] = field(default_factory=dict)
    """The ids that were answered to an upload, by its name."""
    deleted: set[str] = field(default_factory=set)
    """Ids whose deletion got a 2xx."""
    perhaps_deleted: set[str] = field(default_factory=set)
    """Ids whose deletion got no answer."""
    unanswered: int = 0
    """Requests that a kill cut off."""
    refused: Counter[str] = field(default_factory=Counter)
    """Answers other than 2xx."""
    kills: int = 0

    @property
    def gone(self) -> set[str]:
        """Ids that may be missing on purpose."""
        return self.deleted | self.perhaps_deleted

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.unanswered} requests cut off, "
            f"{len(self.acknowledged)} files acknowledged, {len(self.deleted)} deleted, "
            f"refused {dict(self.refused)}"
        )


def plan(number: int, seed: int) -> Upload:
    """Return the upload of this number: the same for the same seed."""
    rng = random.Random(f"{seed} {number}")
    way: Way = rng.choices(("single", "keyed", "parts"), (4, 3, 3))[0]
    odd = (0, 1, 65_536, MIB - 1, MIB, MIB + 1, 3 * MIB, 9 * MIB)  # S3 parts begin at 8
    size = rng.choice(odd) if rng.random() < 0.2 else int(3 * MIB * rng.random() ** 4)
    if way == "parts":
        size = max(size, 1)
    most = min(rng.randrange(5), size - 1) if way == "parts" else 0
    keyed = way == "keyed" or (way == "parts" and rng.random() < 0.5)
    return Upload(
        name=f"upload-{number}.bin",
        way=way,
        content=rng.randbytes(size),
        cuts=tuple(sorted(rng.sample(range(1, size), most))) if most else (),
        key=f"key-{seed}-{number}" if keyed else None,
        twice=way == "keyed" and rng.random() < 0.3,
        then_delete=way == "single" and rng.random() < 0.2,
    )


class Driver:
    """Runs uploads against a server and kills it again and again."""

    def __init__(
        self,
        recto: Recto,
        uploads: int,
        kills: int,
        seed: int,
        minute_passes: Callable[[], Awaitable[object]],
    ) -> None:
        """Take what lets a minute pass for the claims of Idempotency-Keys of dead processes."""
        self.history = History()
        self._recto = recto
        self._minute_passes = minute_passes
        self._seed = seed
        self._rng = random.Random(seed)
        self._waiting = iter(range(uploads))
        self._begun = 0
        self._kill_at = set(self._rng.sample(range(1, uploads), kills))
        self._to_kill: asyncio.Queue[bool] = asyncio.Queue()
        self._up = asyncio.Event()

    async def run(self) -> History:
        """Upload everything; the server runs at the end, as at the beginning."""
        self._up.set()
        killer = asyncio.create_task(self._kill())
        limits = httpx.Limits(max_connections=4 * AT_ONCE)
        http = httpx.AsyncClient(timeout=60, limits=limits)
        async with http, asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._client(http))
        self._to_kill.put_nowait(False)
        await killer
        return self.history

    async def _client(self, http: httpx.AsyncClient) -> None:
        for number in self._waiting:
            self._begun += 1
            if self._begun in self._kill_at:
                self._to_kill.put_nowait(True)
            upload = plan(number, self._seed)
            file_id = await (
                self._in_parts(http, upload)
                if upload.way == "parts"
                else self._single(http, upload)
            )
            if file_id is not None:
                self.history.acknowledged[file_id] = upload
                if upload.then_delete:
                    await self._delete(http, file_id)

    async def _kill(self) -> None:
        """Kill the server whenever it is time, also while it starts."""
        while await self._to_kill.get():
            await asyncio.sleep(self._rng.uniform(0, 0.2))
            self._up.clear()
            await asyncio.to_thread(self._recto.kill)
            self.history.kills += 1
            if self._rng.random() < 0.25:
                self._recto.spawn()
                await asyncio.sleep(self._rng.uniform(0, 1.5))
                await asyncio.to_thread(self._recto.kill)
                self.history.kills += 1
            await self._minute_passes()
            await asyncio.to_thread(self._recto.start)
            self._up.set()

    async def _single(self, http: httpx.AsyncClient, upload: Upload) -> str | None:
        """Upload in one request; return the id that was answered, if one was."""
        form = {"file": (upload.name, upload.content)}
        for _ in range(2 if upload.twice else 1):
            answer = await self._post(http, "/v1/files", key=upload.key, files=form)
            file_id = self._note(upload, answer, lambda body: body)
        return file_id

    async def _in_parts(self, http: httpx.AsyncClient, upload: Upload) -> str | None:
        """Upload in parts, which go out together; return the id that was answered, if one was."""
        asked = {
            "bytes": len(upload.content),
            "filename": upload.name,
            "mime_type": "application/octet-stream",
            "purpose": "ocr",
        }
        key = f"{upload.key} {{}}" if upload.key else ""
        created = await self._post(http, "/v1/uploads", key=key.format(0), again=True, json=asked)
        assert created
        upload_id = created["id"]

        async def send(place: int, part: bytes) -> str:
            path, form = f"/v1/uploads/{upload_id}/parts", {"data": ("part", part)}
            answer = await self._post(http, path, key=key.format(place), again=True, files=form)
            assert answer
            return str(answer["id"])

        sending = [send(place, part) for place, part in enumerate(upload.parts())]
        ids = await asyncio.gather(*sending)
        body: dict[str, Any] = {"part_ids": ids}
        if len(ids) % 2:
            body["md5"] = hashlib.md5(upload.content).hexdigest()
        path = f"/v1/uploads/{upload_id}/complete"
        completed = await self._post(http, path, key=upload.key, json=body)
        return self._note(upload, completed, lambda body: body["file"])

    async def _delete(self, http: httpx.AsyncClient, file_id: str) -> None:
        await self._up.wait()
        try:
            answer = await http.delete(f"{self._recto.base}/v1/files/{file_id}")
        except httpx.TransportError:
            self.history.perhaps_deleted.add(file_id)
        else:
            assert answer.status_code == 200, answer.text
            self.history.deleted.add(file_id)

    async def _post(
        self,
        http: httpx.AsyncClient,
        path: str,
        *,
        key: str | None = "",
        again: bool = False,
        **body: Any,
    ) -> dict[str, Any] | None:
        """POST; send it again while there is no answer and that is safe: None when given up."""
        headers = {"Idempotency-Key": key} if key else {}
        for _ in range(100):
            await self._up.wait()
            try:
                answer = await http.post(f"{self._recto.base}{path}", headers=headers, **body)
            except httpx.TransportError:
                self.history.unanswered += 1
                if key or again:
                    continue
                return None
            if answer.status_code == 200:
                return dict(answer.json())
            error = answer.json()["error"]
            self.history.refused[f"{answer.status_code} {error['code']}"] += 1
            if answer.status_code == 409 and key:
                await asyncio.sleep(float(answer.headers["Retry-After"]))
                continue
            raise AssertionError(answer.text)
        raise AssertionError(f"{path} is never answered: {self.history}")

    def _note(self, upload: Upload, answer: dict[str, Any] | None, file_of: Any) -> str | None:
        if answer is None:
            return None
        file = file_of(answer)
        assert (file["bytes"], file["filename"]) == (len(upload.content), upload.name)
        self.history.answers.setdefault(upload.name, set()).add(file["id"])
        return str(file["id"])


async def damage(base: str, history: History) -> list[str]:
    """Return what a client finds missing or wrong, over HTTP; the empty list is the aim."""
    found = []
    async with httpx.AsyncClient(base_url=base, timeout=60) as http:
        for file_id, upload in history.acknowledged.items():
            answer = await http.get(f"/v1/files/{file_id}/content")
            if file_id in history.deleted:
                if answer.status_code != 404:
                    found.append(f"{upload.name}: deleted, but answers {answer.status_code}")
            elif answer.status_code == 404 and file_id in history.perhaps_deleted:
                continue
            elif answer.status_code != 200:
                found.append(f"{upload.name}: lost ({answer.status_code})")
            elif hashlib.sha256(answer.content).hexdigest() != upload.sha256:
                found.append(f"{upload.name}: corrupt")
        names: dict[str, set[str]] = {}
        async for file in listed(http, base):
            names.setdefault(file["filename"], set()).add(file["id"])
    for name, ids in names.items():
        if len(ids | history.answers.get(name, set())) > 1:
            found.append(f"{name}: {len(ids)} files, answered {history.answers.get(name)}")
    found += [
        f"{name}: answered {len(ids)} ids" for name, ids in history.answers.items() if len(ids) > 1
    ]
    return found


async def listed(http: httpx.AsyncClient, base: str) -> AsyncIterator[dict[str, Any]]:
    """Yield every file that a client sees."""
    query: dict[str, Any] = {"limit": 1000}
    while True:
        page = (await http.get(f"{base}/v1/files", params=query)).json()
        for file in page["data"]:
            yield file
        if not page["has_more"]:
            return
        query["after"] = page["last_id"]
