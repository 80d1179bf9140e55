"""What only blobs in an S3 store can do wrong; the rest is in ``test_blobs``.

Signatures are judged in ``tests/s3``, since the server here takes any.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import obstore
import pytest
from aiohttp import web
from obstore.store import S3Store

from files_api.blobs import BlobExists, BlobMissing, BlobStore, open_store
from files_api.blobs.s3 import client, copies
from files_api.blobs.s3.place import parse
from files_api.blobs.s3.signing import sign_again
from files_api.kit.errors import StorageFull, StorageUnavailable
from tests import s3server
from tests.contract.test_blobs import HUGE, KEY, MIB, stream, whole
from tests.s3server import Door, Outcome, S3Server

PARTS = HUGE[: 10 * MIB + 7]
"""Three of the smallest parts that S3 takes."""
SECRET = s3server.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PART", 5 * MIB)


@pytest.fixture
async def store(s3_url: str) -> AsyncIterator[BlobStore]:
    made = open_store(s3_url)
    yield made
    await made.close()


@pytest.fixture
async def door(s3_server: S3Server) -> AsyncIterator[Door]:
    async with s3server.door(s3_server.endpoint) as made:
        yield made


@pytest.fixture
async def through(door: Door, s3_url: str) -> AsyncIterator[BlobStore]:
    """A store behind the door."""
    made = open_store(door.url(s3_url))
    yield made
    await made.close()


def uses(store: BlobStore) -> dict[str, Callable[[], Any]]:
    """Return each way to use a store."""

    async def local() -> None:
        async with store.local(KEY):
            pass

    async def listed() -> None:
        async for _ in store.blobs():
            pass

    return {
        "put": lambda: store.put("new", stream(b"x")),
        "put in parts": lambda: store.put("large", stream(PARTS)),
        "read": lambda: whole(store, KEY),
        "read a range": lambda: whole(store, KEY, 1, 2),
        "local": local,
        "delete": lambda: store.delete(KEY),
        "check": store.check,
        "blobs": listed,
    }


async def fails(name: str, use: Callable[[], Any], error: type[Exception]) -> None:
    """Fail unless a use of a store fails so."""
    try:
        await use()
    except error:
        return
    pytest.fail(f"{name} did not fail")


# Where the store is.


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3:bucket", "s3://bucket/prefix"),
        ("s3://bucket?endpoint=host:9000", "http://host:port"),
        ("s3://bucket?endpoint=ftp://host", "http://host:port"),
        ("s3://bucket?endpoint=", "http://host:port"),
        ("s3://bucket?endpoint=https://host/bucket", "no more"),
        ("s3://bucket?endpoint=https://me:secret@host", "no more"),
        ("s3://bucket?style=dns", "path or virtual"),
        ("s3://bucket?key=me&secret=secret", "no option key, secret; there are: endpoint, region"),
        ("s3://me:secret@bucket/prefix", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_store(url)
    assert "me:secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("s3://bkt?endpoint=http://host:9000/", "http://host:9000"),
        ("s3://bkt?endpoint=https%3A%2F%2Fhost&style=path", "https://host"),
        ("s3://bkt/a?endpoint=http://host:9000&style=virtual", "http://bkt.host:9000"),
        ("s3://bkt?region=eu-west-3", ""),
    ],
)
def test_endpoints(url: str, endpoint: str) -> None:
    assert parse(url).endpoint == endpoint


async def link_of(url: str) -> str:
    store = open_store(url)
    link = await store.presign("a/b", 60, filename="a", media_type="b")
    await store.close()
    assert link
    return link.split("?")[0]


async def test_where_requests_go(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = "https://s3.eu-west-3.amazonaws.com/bkt/a/b"
    assert await link_of("s3://bkt?region=eu-west-3") == amazon
    virtual = "https://bkt.s3.eu-west-3.amazonaws.com/p/q/a/b"
    assert await link_of("s3://bkt/p/q/?region=eu-west-3&style=virtual") == virtual
    own = "s3://bkt/p?endpoint=http://host:9000"
    assert await link_of(own) == "http://host:9000/bkt/p/a/b"
    assert await link_of(f"{own}&style=virtual") == "http://bkt.host:9000/p/a/b"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://elsewhere")
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    monkeypatch.setenv("AWS_BUCKET", "another")
    assert await link_of(own) == "http://host:9000/bkt/p/a/b"
    assert await link_of("s3://bkt") == "https://elsewhere/bkt/a/b"


async def test_http_is_spoken_only_where_the_url_says_so(
    s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    store = open_store(s3_url.partition("?")[0])
    with pytest.raises(StorageUnavailable):
        await store.check()
    await store.close()


async def test_objects_of_others_are_passed_over(store: BlobStore, s3_url: str) -> None:
    await store.put("mine", stream(b"x"))
    for key in ("some/prefix/Report.pdf", "some/prefix/.check", "some/prefixed", "other"):
        s3server.client(s3_url).put_object(Bucket=urlsplit(s3_url).netloc, Key=key, Body=b"y")
    assert [blob.key async for blob in store.blobs()] == ["mine"]


async def test_more_blobs_than_one_answer_lists(store: BlobStore) -> None:
    keys = {f"org/{number}" for number in range(1003)}
    waiting = sorted(keys)
    while waiting:
        await asyncio.gather(*(store.put(waiting.pop(), stream(b"")) for _ in range(17)))
    assert {blob.key async for blob in store.blobs()} == keys


# What goes wrong on the way.


@pytest.mark.parametrize("fate", ["refuse", "lose"])
@pytest.mark.parametrize("data", [b"small", PARTS], ids=["whole", "in parts"])
async def test_any_request_of_a_write_may_fail_once(
    through: BlobStore, door: Door, s3_url: str, fate: Outcome, data: bytes
) -> None:
    """R8: it is tried again, and the blob is whole."""
    failing = 0
    door.fate = lambda _: fate if len(door.seen) == failing else "pass"
    for failing in range(1, 7 if data is PARTS else 2):
        door.seen.clear()
        await through.put(f"try/{failing}", stream(data))
        assert await whole(through, f"try/{failing}") == data
    assert len(s3server.objects(s3_url)) == failing
    # The id of an upload, once lost, is lost: such an upload is for the store to clear.
    begun = ["some/prefix/try/2"] if fate == "lose" and data is PARTS else []
    assert s3server.open_uploads(s3_url) == begun


@pytest.mark.parametrize("fate", ["refuse", "lose"])
async def test_any_request_of_a_write_may_fail_for_good(
    through: BlobStore, door: Door, s3_url: str, fate: Outcome
) -> None:
    """R2, R8: nothing is left, as far as it can be known."""
    bad: set[str] = set()
    failing = 0

    def decide(request: web.BaseRequest) -> Outcome:
        if len(door.seen) == failing:
            bad.add(door.seen[-1])
        return fate if door.seen[-1] in bad else "pass"

    door.fate = decide
    for failing in range(1, 7):
        door.seen.clear()
        bad.clear()
        with pytest.raises(StorageUnavailable):
            await through.put(f"try/{failing}", stream(PARTS))
    assert s3server.objects(s3_url) == []
    assert set(s3server.open_uploads(s3_url)) == (
        {"some/prefix/try/2"} if fate == "lose" else set()
    )
    door.fate = lambda _: "pass"
    await through.put(KEY, stream(PARTS))
    assert await whole(through, KEY) == PARTS


@pytest.mark.parametrize("data", [b"small", PARTS], ids=["whole", "in parts"])
async def test_a_write_may_be_cancelled_at_any_request(
    through: BlobStore, door: Door, s3_url: str, data: bytes
) -> None:
    """R2: also while the blob is being published."""
    stop_at = 0
    task: asyncio.Task[None]

    def decide(request: web.BaseRequest) -> Outcome:
        if len(door.seen) == stop_at:
            task.cancel()
        return "pass"

    door.fate = decide
    for stop_at in range(1, 7 if data is PARTS else 2):
        door.seen.clear()
        task = asyncio.create_task(through.put(f"try/{stop_at}", stream(data)))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert s3server.objects(s3_url) == []
        assert s3server.open_uploads(s3_url) == []


async def test_an_answer_that_breaks_off_is_continued(through: BlobStore, door: Door) -> None:
    await through.put(KEY, stream(PARTS))
    cuts = iter(["cut"] * 6)
    door.fate = lambda _: next(cuts, "pass")  # type: ignore[arg-type, return-value]
    assert await whole(through, KEY) == PARTS
    cuts = iter(["cut"] * 6)
    assert await whole(through, KEY, 5, len(PARTS) - 5) == PARTS[5:-5]
    assert next(cuts, None) is None


async def test_a_slow_answer_is_continued_after_its_time(
    through: BlobStore, door: Door, monkeypatch: pytest.MonkeyPatch, s3_url: str
) -> None:
    """The client's time for one request ends; the download does not."""
    await through.put(KEY, stream(PARTS))
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(client, "_SLOWEST", client.PART / 0.2)
    monkeypatch.setattr(client, "_LONGEST_SECONDS", 0.4)
    impatient = open_store(s3_url)
    found = bytearray()
    async for chunk in impatient.read(KEY):
        found += chunk
        await asyncio.sleep(len(chunk) / len(PARTS))  # for a second
    assert found == PARTS
    await impatient.close()


async def test_a_long_completion_is_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch, s3_url: str
) -> None:
    """Amazon takes minutes to end an upload of thousands of parts, and shows signs of life."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(client, "_SLOWEST", client.PART / 0.5)
    impatient = open_store(door.url(s3_url))
    door.fate = lambda request: (
        "slow" if "uploadId" in request.query_string and request.method == "POST" else "pass"
    )
    start = time.monotonic()
    await impatient.put(KEY, stream(PARTS))
    assert time.monotonic() - start > 2
    assert await whole(impatient, KEY) == PARTS
    await impatient.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (404, "NoSuchBucket"),
        (400, "AuthorizationHeaderMalformed"),
        (503, "SlowDown"),
    ],
)
async def test_refusals(through: BlobStore, door: Door, status: int, code: str) -> None:
    """R7."""
    await through.put(KEY, stream(b"x"))
    door.fate = lambda _: (status, code)
    for name, use in uses(through).items():
        await fails(name, use, StorageUnavailable)
    door.fate = lambda _: "pass"
    assert await whole(through, KEY) == b"x"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "QuotaExceeded"),
        (400, "XMinioAdminBucketQuotaExceeded"),
        (507, "XMinioStorageFull"),
        (507, "Another"),
    ],
)
async def test_a_store_without_room(
    through: BlobStore, door: Door, s3_url: str, status: int, code: str
) -> None:
    """R7: it serves and deletes what it has."""
    await through.put(KEY, stream(b"x"))
    door.fate = lambda request: (status, code) if request.method == "PUT" else "pass"
    for name in ("put", "put in parts", "check"):
        await fails(name, uses(through)[name], StorageFull)
    assert await whole(through, KEY) == b"x"
    await through.delete(KEY)
    assert s3server.objects(s3_url) == s3server.open_uploads(s3_url) == []


async def test_a_bucket_that_is_not_there(s3_server: S3Server, s3_url: str) -> None:
    """R7: its blobs are not gone, they cannot be reached."""
    store = open_store(s3_url.replace("recto-", "gone-"))
    for name, use in uses(store).items():
        await fails(name, use, StorageUnavailable)
    s3_server.new_bucket(urlsplit(s3_url).netloc.replace("recto-", "gone-"))
    await store.put(KEY, stream(PARTS))
    assert await whole(store, KEY) == PARTS
    await store.close()


async def test_a_store_that_cannot_create_is_asked_once(
    through: BlobStore, door: Door, s3_url: str
) -> None:
    """OpenStack Swift answers like this."""
    door.fate = lambda request: (
        (501, "NotImplemented") if "If-None-Match" in request.headers else "pass"
    )
    await through.put("a", stream(b"x"))
    door.seen.clear()
    await through.put("b", stream(b"y"))
    path = f"/{urlsplit(s3_url).netloc}/some/prefix/b"
    assert door.seen == [f"HEAD {path}", f"PUT {path}"]
    with pytest.raises(BlobExists):
        await through.put("a", stream(b"z"))
    assert await whole(through, "a") == b"x"


async def test_a_lost_answer_is_not_taken_for_another_writer(
    through: BlobStore, door: Door
) -> None:
    door.fate = lambda _: "lose" if len(door.seen) == 1 else "pass"
    await through.put(KEY, stream(b"x"))
    assert [line.split()[0] for line in door.seen] == ["PUT", "PUT", "HEAD"]
    assert await whole(through, KEY) == b"x"
    door.seen.clear()
    with pytest.raises(BlobExists):
        await through.put(KEY, stream(b"x"))


# A store that goes away.


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch, s3_url: str) -> Any:
    """A server of its own, to be killed."""
    with S3Server() as server:
        yield server


async def test_a_store_that_goes_away_and_comes_back(mortal: S3Server) -> None:
    """R7: refused connections; the same store object works again, with no restart of ours."""
    url = mortal.new_bucket("bkt")
    store = open_store(url)
    await store.put(KEY, stream(PARTS))
    reading = store.read(KEY)
    await anext(reading)
    mortal.kill()
    start = time.monotonic()
    with pytest.raises(StorageUnavailable):
        async for _ in reading:
            pass
    for name, use in uses(store).items():
        await fails(name, use, StorageUnavailable)
        assert time.monotonic() - start < client.ANSWER_SECONDS, name
        start = time.monotonic()
    mortal.start()
    mortal.new_bucket("bkt")
    await store.put(KEY, stream(PARTS))
    assert await whole(store, KEY) == PARTS
    await store.check()
    await store.close()


async def test_a_store_that_hangs_and_wakes(
    mortal: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7: it takes connections and answers none."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(client, "_SLOWEST", client.PART / 0.4)
    store = open_store(mortal.new_bucket("bkt"))
    await store.put(KEY, stream(b"x"))
    mortal.halt()
    try:
        for name, use in uses(store).items():
            start = time.monotonic()
            await fails(name, use, StorageUnavailable)
            # The time of one request, and that of taking back what may have been done.
            assert time.monotonic() - start < 2, name
    finally:
        mortal.wake()
    monkeypatch.undo()
    await store.check()
    await store.put("another", stream(b"y"))
    assert await whole(store, "another") == b"y"
    await store.close()


# Copies on this machine.


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(copies.tempfile, "tempdir", str(folder))
    return folder


async def test_a_copy_goes_at_the_end_of_the_block(store: BlobStore, temporary: Path) -> None:
    await store.put(KEY, stream(PARTS))
    async with store.local(KEY) as one, store.local(KEY) as other:
        assert one.read_bytes() == other.read_bytes() == PARTS
        assert one.parent == temporary
        assert one != other
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
        os.utime(one, (0, 0))
        assert await store.sweep() == 0
        assert one.exists()
    assert list(temporary.iterdir()) == []
    with pytest.raises(RuntimeError, match="of the block"):
        async with store.local(KEY):
            raise RuntimeError("of the block")
    with pytest.raises(BlobMissing):
        async with store.local("missing"):
            pass
    assert list(temporary.iterdir()) == []


async def test_copies_of_dead_processes_are_swept(store: BlobStore, temporary: Path) -> None:
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1];"
        "from files_api.blobs.s3.copies import Copy;"
        "copy = Copy(); copy.open(); copy.write(b'x'); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        died = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(temporary))
        await died.wait()
    old, young = temporary.iterdir()
    os.utime(old, (0, 0))
    (temporary / "of another program").write_bytes(b"x")
    os.utime(temporary / "of another program", (0, 0))
    assert await store.sweep() == 1
    assert {path.name for path in temporary.iterdir()} == {young.name, "of another program"}


async def test_a_full_disk_fails_the_copy(
    store: BlobStore, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7."""
    await store.put(KEY, stream(b"x"))

    def fail(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(copies.os, "write", fail)
        with pytest.raises(StorageFull):
            async with store.local(KEY):
                pass
    assert list(temporary.iterdir()) == []


# Links.


async def test_a_link_carries_name_and_type(store: BlobStore) -> None:
    await store.put(KEY, stream(b"the bytes"))
    name = 'Büro "Ä"\r\nSet-Cookie: a=b; 100% & more+.pdf'
    link = await store.presign(KEY, 60, filename=name, media_type="application/pdf")
    assert link
    query = parse_qs(urlsplit(link).query)
    assert query["X-Amz-Expires"] == ["60"]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(link)
    assert answer.content == b"the bytes"
    assert answer.headers["content-type"].split(";")[0] == "application/pdf"
    assert query["response-content-disposition"] == [answer.headers["content-disposition"]]
    assert "set-cookie" not in answer.headers
    assert SECRET not in link


def test_signed_again_is_signed_alike(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers of one standard agree: obstore's signature is ours over the same query."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a/token+of=a session")
    store = S3Store("bkt", prefix="a b/ü", endpoint="http://host:9000", region="eu-west-1")
    link = obstore.sign(store, "GET", "k/v", timedelta(hours=1))
    ours = sign_again(link, SECRET, {})
    assert parse_qs(urlsplit(ours).query) == parse_qs(urlsplit(link).query)
    assert sign_again(link, "wrong", {}) != ours


def test_the_example_of_the_specification() -> None:
    """Amazon S3 API reference, "Authenticating Requests: Using Query Parameters", the example."""
    link = (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=to-be-replaced"
    )
    signed = sign_again(link, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", {})
    assert parse_qs(urlsplit(signed).query)["X-Amz-Signature"] == [
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    ]


async def test_a_secret_that_is_not_ours_signs_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a role, whose key is not in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    link = await store.presign(KEY, 60, filename="a.pdf", media_type="text/plain")
    assert link
    assert "response-" not in link
    with pytest.raises(ValueError, match="malformed"):
        await store.presign("../a", 60, filename="a.pdf", media_type="text/plain")


async def test_links_and_secrets_are_not_logged(
    through: BlobStore, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    link = await through.presign(KEY, 60, filename="a.pdf", media_type="text/plain")
    assert link
    door.fate = lambda _: "refuse"
    with pytest.raises(StorageUnavailable) as caught:
        await through.check()
    signature = parse_qs(urlsplit(link).query)["X-Amz-Signature"][0]
    for text in (caplog.text, str(caught.value), repr(caught.value.__cause__)):
        assert signature not in text
        assert SECRET not in text


# The library.


def test_the_street_needs_no_obstore() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None;"
        "from files_api.blobs import open_store;"
        "open_store('file:///tmp/x');"
        "\ntry: open_store('s3://bucket')"
        "\nexcept ModuleNotFoundError as error: print(error.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "obstore"


def test_a_process_may_end_right_after_its_last_request() -> None:
    """R18: a thread of the client that met the end of the interpreter aborted it."""
    code = (
        "import asyncio\n"
        "from files_api.blobs import open_store\n"
        "async def main():\n"
        "    store = open_store('s3://bkt?endpoint=http://127.0.0.1:9')\n"
        "    tasks = [asyncio.create_task(store.delete('k')) for _ in range(50)]\n"
        "    await asyncio.sleep(0.003)\n"
        "    for task in tasks[:25]: task.cancel()\n"
        "    await asyncio.gather(*tasks, return_exceptions=True)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | s3server.ENVIRONMENT
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        assert done.returncode == 0
