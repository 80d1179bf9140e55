"""Every source becomes a local file of a known type, or an error that says why not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pybase64
import pytest
from aiohttp import web

from files_api.accounts import Principal
from files_api.files import StoredFile
from files_api.kit.errors import (
    AppError,
    DocumentEmpty,
    FetchFailed,
    FetchRefused,
    FileNotFound,
    InvalidBase64,
    InvalidLink,
    InvalidRequest,
    Overloaded,
    RateLimited,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    UnsupportedFormat,
)
from ocr_api.documents import Document, Documents, digest
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.request import FileSource, InlineSource, PathSource, Source, UrlSource
from tests import helpers

PDF = b"%PDF-1.7\n" + bytes(range(256)) * 20
PNG = b"\x89PNG\r\n\x1a\n" + bytes(300)
BASE64 = pybase64.b64encode(PDF).decode()
ME = Principal("org-1")
LIMIT = 10_000
DIGEST = "as the files service says"
OURS = "https://recto.example.com/v1/files/"


class FakeFiles:
    """A fake of the files service: files of one organisation in a dict, links by their prefix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = 0

    @asynccontextmanager
    async def open_file(self, principal: Principal, file_id: str) -> AsyncIterator[StoredFile]:
        path = self.folder / file_id
        if principal.org_id != "org-1" or not path.is_file():
            raise FileNotFound
        self.opened += 1
        try:
            yield StoredFile(file_id, path, path.stat().st_size, "named.pdf", "text/plain", DIGEST)
        finally:
            self.opened -= 1

    @asynccontextmanager
    async def open_link(self, reader: Principal, url: str) -> AsyncIterator[StoredFile | None]:
        assert reader == ME
        if not url.startswith(OURS):
            yield None
            return
        if "sig=good" not in url:
            raise InvalidLink
        async with self.open_file(ME, url.removeprefix(OURS).partition("/")[0]) as file:
            yield file


class House:
    """Documents over a fake files service, with a scratch folder to look into."""

    def __init__(self, folder: Path) -> None:
        self.stored, self.scratch = folder / "stored", folder / "scratch"
        self.stored.mkdir()
        self.files = FakeFiles(self.stored)
        self.outbound = Outbound(OutboundLimits(LIMIT, seconds=5, allowed_hosts=("127.0.0.1",)))
        self.room = helpers.room(4 * LIMIT)
        self.documents = Documents(self.files, self.outbound, self.scratch, LIMIT, self.room)

    def left_over(self) -> list[Path]:
        return list(self.scratch.glob("*")) if self.scratch.exists() else []

    async def read(self, source: Source, principal: Principal = ME) -> tuple[Document, bytes]:
        async with self.documents.open(source, principal) as document:
            return document, document.path.read_bytes()

    async def fail(self, source: Source, principal: Principal = ME) -> AppError:
        with pytest.raises(AppError) as caught:
            await self.read(source, principal)
        assert self.left_over() == []
        assert self.files.opened == 0
        assert self.room.held == 0
        return caught.value


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.outbound.close()


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Serve every path on loopback; gives the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(body: bytes, status: int = 200, kind: str = "text/plain") -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, content_type=kind)

    return handler


@pytest.mark.parametrize(
    "text",
    [
        BASE64,
        f"data:application/pdf;base64,{BASE64}",
        f"DATA:application/pdf;BASE64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:image/jpeg;base64,{BASE64}",
        f"data:application/octet-stream;charset=utf-8;base64,{BASE64}",
        f'data:application/pdf;name="a,b;c.pdf";base64,{BASE64}',
        f"data:application/pdf; base64, {BASE64}",
        f"  \n data:application/pdf;base64,{BASE64}\n",
        f"data:application/pdf;base64,{BASE64.rstrip('=')}",
        "\r\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76)),
        pybase64.urlsafe_b64encode(PDF).decode(),
        pybase64.urlsafe_b64encode(PDF).decode().rstrip("="),
        "data:;base64," + BASE64.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        "data:;base64," + "%0D%0A".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76)),
    ],
)
async def test_inline_documents(house: House, text: str) -> None:
    for source in (InlineSource(text, "document.document_content"), UrlSource(text)):
        document, content = await house.read(source)
        assert content == PDF
        assert (document.media_type, document.size) == ("application/pdf", len(PDF))
        assert house.left_over() == []


@pytest.mark.parametrize(
    "text",
    [
        "data:application/pdf,%25PDF-1.7",
        "data:,hello",
        "data:text/plain,hello;base64,JVBERi0=",
        "data:base64,JVBERi0=",
        "data:application/pdf;base64",
        'data:application/pdf;name="open;base64,JVBERi0=',
        "data:;base64,JVBERi0*",
        "JVBERi0=JVBERi0=",
        "JVBERi0==",
        "JVBERi=",
        "JVBER",
        "JVBERi0%41",
        "JVBERi0%",
        "JVBERi0\u00e9",
        "JVBERi0\x00",
        "====",
        "secret not base64!",
    ],
)
async def test_what_is_no_base64(house: House, text: str) -> None:
    error = await house.fail(InlineSource(text, "document.document_content"))
    assert isinstance(error, InvalidBase64)
    assert error.param == "document.document_content"
    assert "secret" not in error.message
    assert "JVBER" not in error.message


async def test_a_data_uri_without_base64_says_so(house: House) -> None:
    error = await house.fail(UrlSource("data:text/plain,secret"))
    assert error.message == "The data: URI is not in base64: send data:<type>;base64,<document>."
    assert error.param == "document.document_url"


async def test_a_url_as_content_says_where_it_belongs(house: House) -> None:
    error = await house.fail(InlineSource("https://example.com/a.pdf?sig=x"))
    assert error.message == "The inline document is a URL: send it as document_url."


@pytest.mark.parametrize("text", ["", "data:application/pdf;base64,", " \n"])
async def test_nothing_inline_is_empty(house: House, text: str) -> None:
    assert isinstance(await house.fail(InlineSource(text)), DocumentEmpty)


async def test_the_inline_limit_is_exact(house: House) -> None:
    fits, over = PDF.ljust(LIMIT, b"x"), PDF.ljust(LIMIT + 1, b"x")
    for encode in (pybase64.b64encode, pybase64.encodebytes):
        document, _ = await house.read(InlineSource(encode(fits).decode()))
        assert document.size == LIMIT
        error = await house.fail(InlineSource(encode(over).decode()))
        assert isinstance(error, TooLarge)
        assert error.message == "The document is larger than the 0.01 MB allowed."
    late = "data:;base64," + "\n%0A" * LIMIT + pybase64.b64encode(fits).decode()
    assert (await house.read(InlineSource(late)))[0].size == LIMIT


async def test_too_much_is_refused_before_it_is_decoded(house: House) -> None:
    error = await house.fail(InlineSource("*" * (LIMIT * 2)))
    assert isinstance(error, TooLarge)


async def test_decoding_leaves_the_event_loop_free(tmp_path: Path, house: House) -> None:
    size = 30_000_000
    big = Documents(
        house.files, house.outbound, tmp_path / "scratch", size + len(PDF), helpers.room()
    )
    text = pybase64.b64encode(PDF + bytes(size)).decode()
    turns, done = 0, asyncio.Event()

    async def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0.001)

    counter = asyncio.create_task(count())
    async with big.open(InlineSource(text), ME) as document:
        done.set()
        assert document.size == size + len(PDF)
    await counter
    assert turns > 3


async def test_temporary_files_take_room_while_they_are_open(house: House) -> None:
    """One organisation has half of four documents' bytes, then it is told so; another goes on."""
    large = "data:;base64," + pybase64.b64encode(PDF.ljust(LIMIT)).decode()
    other = Principal("org-2")
    async with AsyncExitStack() as stack, serving(answer(PDF.ljust(LIMIT))) as base:
        for source in (UrlSource(large), UrlSource(f"{base}/x.pdf")):
            await stack.enter_async_context(house.documents.open(source, ME))
        assert house.room.held == 2 * LIMIT
        for source in (InlineSource(BASE64), UrlSource(f"{base}/x.pdf")):
            with pytest.raises(RateLimited):
                await house.read(source)
        assert len(house.left_over()) == 2
        for _ in range(2):
            await stack.enter_async_context(house.documents.open(UrlSource(large), other))
        with pytest.raises(Overloaded):
            await house.read(InlineSource(BASE64), Principal("org-3"))
    assert (house.room.held, house.left_over()) == (0, [])


async def test_temporary_files_are_private(house: House) -> None:
    async with house.documents.open(InlineSource(BASE64), ME) as document:
        assert document.path.parent == house.scratch
        assert document.path.name.startswith("recto-")
        assert stat.S_IMODE(document.path.stat().st_mode) == 0o600
    assert house.left_over() == []


async def test_temporary_files_go_when_the_reader_fails(house: House) -> None:
    async def read() -> None:
        async with house.documents.open(InlineSource(BASE64), ME):
            raise InvalidRequest("the reader's own")

    with pytest.raises(InvalidRequest) as caught:
        await read()
    assert caught.value.param is None
    assert house.left_over() == []


async def test_a_url_is_fetched(house: House) -> None:
    async with serving(answer(PNG, kind="application/pdf")) as base:
        document, content = await house.read(UrlSource(f" {base}/in%20voice.png?sig=x \n"))
    assert content == PNG
    assert (document.media_type, document.size) == ("image/png", len(PNG))
    assert document.name == "in voice.png"
    assert house.left_over() == []


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 200, DocumentEmpty),
        (b"x" * (LIMIT + 1), 200, TooLarge),
        (PDF, 404, FetchFailed),
        (b"<html>Please log in</html>", 200, UnsupportedFormat),
    ],
)
async def test_a_url_that_gives_no_document(
    house: House, body: bytes, status: int, kind: type[AppError]
) -> None:
    async with serving(answer(body, status)) as base:
        error = await house.fail(UrlSource(f"{base}/a.pdf"))
    assert type(error) is kind
    assert error.param == "document.document_url"


@pytest.mark.parametrize("when", ["head", "body"])
async def test_a_cancelled_fetch_leaves_nothing(house: House, when: str) -> None:
    reached = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if when == "body":
            await response.prepare(request)
            await response.write(PDF)
        reached.set()
        await asyncio.sleep(60)
        return response

    async with serving(handler) as base:
        task = asyncio.create_task(house.read(UrlSource(base)))
        await reached.wait()
        assert len(house.left_over()) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert house.left_over() == []


async def test_a_cancelled_decoding_leaves_nothing(tmp_path: Path, house: House) -> None:
    room = helpers.room()
    big = Documents(house.files, house.outbound, house.scratch, 100_000_000, room)
    text = pybase64.b64encode(PDF + bytes(20_000_000)).decode()

    async def read() -> None:
        async with big.open(InlineSource(text), ME):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    assert len(house.left_over()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.left_over() == []
    await asyncio.get_running_loop().shutdown_default_executor()  # the thread went on
    assert room.held == 0


@pytest.mark.parametrize(
    "url",
    [
        "",
        "invoice.pdf",
        "/etc/passwd",
        "www.example.com/a.pdf",
        "//example.com/a.pdf",
        "file:///etc/passwd",
        "ftp://example.com/a.pdf",
        "http://127.0.0.2/a.pdf",
        pybase64.b64encode(b"just some text in base64").decode(),
    ],
)
async def test_what_is_no_url_to_fetch(house: House, url: str) -> None:
    error = await house.fail(UrlSource(url))
    assert type(error) is FetchRefused
    assert error.param == "document.document_url"
    assert (await house.fail(UrlSource(url, "document_url"))).param == "document_url"


async def test_our_own_link_is_read_in_process(house: House) -> None:
    (house.stored / "f1").write_bytes(PDF)
    document, content = await house.read(UrlSource(f" {OURS}f1/content?sig=good"))
    assert content == PDF
    assert document.path == house.stored / "f1"
    assert document.name == "named.pdf"
    assert house.files.opened == 0
    error = await house.fail(UrlSource(f"{OURS}f1/content?sig=bad"))
    assert isinstance(error, InvalidLink)
    assert error.param == "document.document_url"


async def test_an_uploaded_file(house: House) -> None:
    (house.stored / "f1").write_bytes(PNG)
    document, _ = await house.read(FileSource("f1"))
    path = house.stored / "f1"
    assert document == Document(path, "image/png", len(PNG), "named.pdf", "f1", DIGEST)
    assert await digest(document) == DIGEST
    other = Document(path, "image/png", len(PNG), "other.pdf")
    assert await digest(other) == hashlib.sha256(PNG).hexdigest()
    assert (house.stored / "f1").exists()
    for error in (
        await house.fail(FileSource("f2")),
        await house.fail(FileSource("f1"), Principal("org-2")),
    ):
        assert isinstance(error, FileNotFound)
        assert error.param == "document.file_id"
    assert (await house.fail(FileSource("f2", "file_id"))).param == "file_id"


async def test_an_uploaded_file_whose_content_is_gone(house: House) -> None:
    (house.stored / "f1").write_bytes(PNG)

    class Vanishing(FakeFiles):
        """A fake whose file goes between its row and its content."""

        @asynccontextmanager
        async def open_file(self, principal: Principal, file_id: str) -> AsyncIterator[StoredFile]:
            async with super().open_file(principal, file_id) as file:
                file.path.unlink()
                yield file

    documents = Documents(
        Vanishing(house.stored), house.outbound, house.scratch, LIMIT, helpers.room()
    )
    with pytest.raises(StorageUnavailable) as caught:
        async with documents.open(FileSource("f1"), ME):
            pass
    assert caught.value.param is None


async def test_a_file_on_this_machine(house: House, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(PDF)
    document, _ = await house.read(PathSource(path))
    assert document == Document(path, "application/pdf", len(PDF), "a.txt")
    assert path.exists()
    path.write_bytes(b"")
    assert isinstance(await house.fail(PathSource(path)), DocumentEmpty)
    path.write_bytes(bytes(LIMIT + 1))
    assert isinstance(await house.fail(PathSource(path)), TooLarge)


async def test_a_path_that_is_no_file(house: House, tmp_path: Path) -> None:
    missing = await house.fail(PathSource(tmp_path / "none.pdf"))
    assert type(missing) is InvalidRequest
    assert missing.message == f"{tmp_path / 'none.pdf'} cannot be read: No such file or directory."
    folder = await house.fail(PathSource(tmp_path))
    assert folder.message == f"{tmp_path} cannot be read: Is a directory."


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"<!doctype html><title>Sign in</title>", "an HTML page"),
        (b"PK\x03\x04[Content_Types].xml", "a ZIP archive or an Office file"),
        (b'{"error": "no"}', "JSON"),
        (b"Dear reader,", "plain text"),
        (b"\x00\x01\x02\x03", "something else"),
    ],
)
async def test_unsupported_formats_say_what_they_look_like(
    house: House, content: bytes, looks: str
) -> None:
    text = f"data:application/pdf;base64,{pybase64.b64encode(content).decode()}"
    error = await house.fail(InlineSource(text, "document.image_url"))
    assert isinstance(error, UnsupportedFormat)
    assert error.message == (
        f"The document looks like {looks}. Supported formats: PDF, PNG, JPEG, WEBP, GIF, BMP, TIFF."
    )
    assert error.param == "document.image_url"


@pytest.mark.parametrize(("number", "kind"), [(28, StorageFull), (5, StorageUnavailable)])
async def test_a_failing_disk_is_ours_to_answer_for(
    house: House, number: int, kind: type[AppError]
) -> None:
    class Broken(Outbound):
        """A fake way out whose writes fail."""

        async def fetch(self, *_: object, **__: object) -> int:
            raise OSError(number, "the disk fails")

    outbound = Broken(OutboundLimits(LIMIT))
    documents = Documents(house.files, outbound, house.scratch, LIMIT, helpers.room())
    with pytest.raises(kind):
        async with documents.open(UrlSource("http://example.com/"), ME):
            pass
    assert house.left_over() == []


def test_the_samples_are_what_they_should_be() -> None:
    assert set("+/=") <= set(BASE64)
    assert io.BytesIO(PDF).read(5) == b"%PDF-"
