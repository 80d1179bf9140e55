"""A service whose only models run on stand-ins for vLLM, and what both sides counted.

The cards are GLM-OCR's with small pages, so that hundreds of them are read in a second or two.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from files_api.accounts import OrgLimits
from tests import helpers, samples
from tests.bench.fake import running
from tests.durability.process import Recto
from tests.e2e.conftest import CARDS, FakeVlm
from tests.keys_desk import SECRET, desk

SMALL, HURRIED = MODELS = ("test/glm-small", "test/glm-hurried")
IN_FLIGHT = 8
"""Pages that the cards give a server at a time."""
HURRY = 2.0
"""Seconds of a page of the hurried card."""
TRIES = 3
"""How often a page that loops is asked for in all."""
AHEAD = 8
"""Pages that may be drawn before a server takes them (`Bounds.ahead`)."""
AT_ONCE = 64
"""Requests that one client of these tests sends side by side."""

_numbers = itertools.count(1)


def write_cards(folder: Path, **facts: Any) -> dict[str, str]:
    """Write the cards and routes into a folder; return the settings that name them.

    Without the ladder's smaller and turned pages: they are other pictures, and the stand-in's
    faults go by the picture.
    """
    models = folder / "cards"
    models.mkdir(parents=True)
    glm = CARDS["zai-org/GLM-OCR"]
    sampling = [retry for retry in glm.retries if not retry.turn and retry.scale == 1][:1]
    changes = {
        "aliases": (),
        "max_tokens": 1024,
        "retries": tuple(sampling * (TRIES - 1)),
        "render": glm.render.model_copy(update={"edge": 400, "dpi": None}),
        "pages_in_flight": IN_FLIGHT,
        "page_seconds": 60.0,
        **facts,
    }
    small = glm.model_copy(update={"id": SMALL, **changes})
    hurried = glm.model_copy(update={"id": HURRIED, **changes, "page_seconds": HURRY})
    for number, card in enumerate((small, hurried)):
        (models / f"{number}.yaml").write_text(card.model_dump_json())  # JSON is YAML
    routes = folder / "small-routes.yaml"
    routes.write_text(json.dumps({"default": SMALL}))
    return {"MODELS_DIR": str(models), "ROUTES": str(routes)}


def shared_settings(folder: Path, database: str, engine: Standin) -> dict[str, str]:
    """Return the settings of several processes on one database and one folder of files."""
    return {
        "DATABASE_URL": database,
        "BLOB_URL": (folder / "blobs").as_uri(),
        "SECRET_KEY": SECRET,
        "ENGINE_URLS": json.dumps({SMALL: f"{engine.base}/v1"}),
        **write_cards(folder),
    }


def pdf(name: str, pages: int) -> bytes:
    """Return a document whose pages are like no other document's; its bytes are the same always."""
    texts = [f"{name}\n{number} of {pages}\npage {number}" for number in range(pages)]
    return samples.text_pdf(texts, size=(300, 200))


class Standin(FakeVlm):
    """One stand-in, with all that it was asked and all that it answered."""

    def cure(self) -> None:
        """Do nothing wrong any more; forget nothing."""
        assert self._http.delete("/_faults").status_code == 200

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get("/_stats").json()
        return found

    def log(self) -> list[dict[str, Any]]:
        """Return the requests that have ended, in the order of their ends."""
        found: list[dict[str, Any]] = self._http.get("/_log?last=1000").json()["log"]
        return found

    def settled(self) -> dict[str, Any]:
        """Return the counts once nothing is in flight."""
        return self.until(lambda now: now["in_flight"] == 0)

    def asked(self) -> list[tuple[str, int]]:
        """Return whose page, and which, in the order in which they came: request id, index."""
        sent = sorted(self.log(), key=lambda one: int(one["no"]))
        return [_whose(one["headers"]["x-request-id"]) for one in sent]

    def tokens(self) -> Tokens:
        """Return the tokens of all good answers."""
        good = [one for one in self.log() if one["outcome"] == "completed" and not one["fault"]]
        return Tokens(
            sum(one["prompt_tokens"] for one in good), sum(one["completion_tokens"] for one in good)
        )


def _whose(name: str) -> tuple[str, int]:
    request, page, _ = name.rsplit("-", 2)
    return request, int(page.removeprefix("p"))


@contextmanager
def standin(*options: str) -> Iterator[Standin]:
    """Run a stand-in for all the cards."""
    models = [word for model in MODELS for word in ("--model", model)]
    own = ("--answer-chars", "300", "--stream-chunks", "4", "--echo-model", "requested")
    with running(*models, *own, *options) as (base, _), httpx.Client(base_url=base) as http:
        yield Standin(http)


class Wire:
    """A way to a stand-in that can be cut: whatever goes over it breaks, and nothing new begins."""

    def __init__(self, base: str) -> None:
        self._host, port = base.removeprefix("http://").split(":")
        self._port = int(port)
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        """Give the address of its near end."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        self.cut()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._is_cut = False

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        answers, out = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, out}
        await asyncio.gather(self._pump(reader, out), self._pump(answers, writer))
        self._writers -= {writer, out}

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@dataclass(frozen=True)
class Tokens:
    """Tokens of prompts and answers."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True)
class Usage:
    """The usage row of one request."""

    outcome: str
    pages: int
    reused: int
    failed: int
    charged: Tokens
    wasted: Tokens
    saved: Tokens


class Service:
    """The service, and a client of it."""

    def __init__(self, recto: Recto, keys: Sequence[str] = ()) -> None:
        self.recto = recto
        self.keys = tuple(keys)
        self._http = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=AT_ONCE))

    def close(self) -> None:
        self._http.close()

    def post(
        self,
        document: bytes | str,
        *,
        key: int = 0,
        headers: dict[str, str] | None = None,
        name: str | None = None,
        **body: Any,
    ) -> httpx.Response:
        """Have a document read.

        Args:
            document: its bytes, or the id of a file.
            key: whose key to use, where there are keys.
            headers: more of them.
            name: the request's id; one of its own where it is None.
            body: more of it.
        """
        sent = {"x-request-id": name or new_name(), **self.key(key), **(headers or {})}
        asked = {"document": as_document(document), **body}
        return self._http.post(f"{self.recto.base}/v1/ocr", json=asked, headers=sent)

    def stream(
        self, document: bytes | str, *, key: int = 0, name: str | None = None, **body: Any
    ) -> Generator[tuple[str, Any], None, None]:
        """Have a document read page by page; yield each event: its name and its data.

        The request is sent when the first event is asked for; closing hangs up.
        """
        asked = {"document": as_document(document), "stream": True, **body}
        sent = {"x-request-id": name or new_name(), **self.key(key)}
        address, event = f"{self.recto.base}/v1/ocr", ""
        with self._http.stream("POST", address, json=asked, headers=sent) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    event = value
                elif field == "data":
                    yield event, json.loads(value)

    def upload(self, content: bytes, key: int = 0) -> str:
        """Store a file; return its id."""
        answer = self._http.post(
            f"{self.recto.base}/v1/files",
            files={"file": ("a.pdf", content)},
            data={"purpose": "ocr"},
            headers=self.key(key),
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def delete(self, file_id: str, key: int = 0) -> None:
        url = f"{self.recto.base}/v1/files/{file_id}"
        assert self._http.delete(url, headers=self.key(key)).status_code == 200

    def usage(self, name: str) -> Usage:
        """Return the usage row of a request, once it is there."""
        database = self.recto.data / "recto.db"
        [row] = helpers.wait_for_usage(database, lambda row: row["request_id"] == name)

        def tokens(kind: str = "") -> Tokens:
            return Tokens(row[f"{kind}prompt_tokens"], row[f"{kind}completion_tokens"])

        return Usage(
            outcome=row["outcome"],
            pages=row["pages"],
            reused=row["pages_reused"],
            failed=row["pages_failed"],
            charged=tokens(),
            wasted=tokens("wasted_"),
            saved=tokens("reused_"),
        )

    def metrics(self) -> str:
        """Return what Prometheus is shown."""
        return self._http.get(f"{self.recto.base}/metrics").text

    def key(self, number: int) -> dict[str, str]:
        """Return the header with a key, where the service asks for one."""
        return {"authorization": f"Bearer {self.keys[number]}"} if self.keys else {}


def until(wanted: Callable[[], bool], seconds: float = 20) -> None:
    """Return once it is so. Another process brings it about, and tells nobody."""
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def new_name() -> str:
    """Return a request id that no other request has."""
    return f"reading-{next(_numbers)}-{random.getrandbits(32):08x}"


def as_document(document: bytes | str) -> dict[str, str]:
    """Return the document of a request: a file's id, or bytes that travel inside it."""
    if isinstance(document, str):
        return {"type": "file", "file_id": document}
    return {"type": "content", "document_content": base64.b64encode(document).decode()}


@contextmanager
def leaving(service: Service, document: bytes | str, **body: Any) -> Iterator[str]:
    """Ask for a document, and hang up at the end of the block; give the request's id."""
    asked = {"document": as_document(document), **body}
    headers = {"x-request-id": new_name(), "content-type": "application/json"} | service.key(0)
    with closing(HTTPConnection(urlsplit(service.recto.base).netloc)) as connection:
        connection.request("POST", "/v1/ocr", json.dumps(asked), headers)
        yield headers["x-request-id"]


@contextmanager
def serving(
    folder: Path, urls: Sequence[str], *orgs: str, card: dict[str, Any] | None = None, **more: str
) -> Iterator[Service]:
    """Run the service with these servers for each model, and a key for each organisation.

    Args:
        folder: an empty one.
        urls: the addresses of the stand-ins.
        orgs: organisations to make, as NAME or NAME:WEIGHT; without them no key is asked for.
        card: what is otherwise on the cards.
        more: settings, in capitals.
    """
    servers = json.dumps({model: [f"{url}/v1" for url in urls] for model in MODELS})
    settings = {**write_cards(folder, **(card or {})), "ENGINE_URLS": servers, **more}
    if orgs:
        settings["SECRET_KEY"] = SECRET
    recto = Recto(folder / "service", **settings)
    keys = asyncio.run(_keys(recto.data / "recto.db", orgs)) if orgs else []
    with closing(Service(recto, keys)) as service:
        try:
            recto.start()
            yield service
            recto.stop()
        finally:
            recto.close()


async def _keys(database: Path, orgs: Sequence[str]) -> list[str]:
    """Make a database with the organisations; return a key of each."""
    keys = []
    database.parent.mkdir(parents=True)
    async with desk(f"sqlite:///{database}", SECRET) as made:
        for org in orgs:
            name, _, weight = org.partition(":")
            limits = OrgLimits(weight=int(weight)) if weight else None
            keys.append(await made.key(await made.org(name, limits)))
    return keys
