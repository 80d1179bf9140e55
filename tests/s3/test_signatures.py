"""Presigned links, judged by a server that checks them (moto takes forged ones)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from files_api.blobs import BlobStore, open_store
from files_api.kit.errors import StorageUnavailable
from tests.contract.test_blobs import stream

NAME = 'Büro "Ä" 100% & more+.pdf'
TYPE = "application/pdf"


@pytest.fixture
async def store(blob_url: str) -> AsyncIterator[BlobStore]:
    made = open_store(blob_url)
    await made.put("a/b", stream(b"the bytes"))
    await made.put("a/c", stream(b"of another"))
    yield made
    await made.close()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as made:
        yield made


async def link_to(store: BlobStore, key: str = "a/b", seconds: int = 60) -> str:
    link = await store.presign(key, seconds, filename=NAME, media_type=TYPE)
    assert link
    return link


def query_of(link: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(link).query))


def changed(link: str, **parameters: str | None) -> str:
    """Return a link with other query parameters; None removes one."""
    query = query_of(link)
    for name, value in parameters.items():
        query.pop(name.replace("_", "-"), None)
        if value is not None:
            query[name.replace("_", "-")] = value
    return urlsplit(link)._replace(query=urlencode(query)).geturl()


async def test_a_link_gives_the_blob_its_name_and_its_type(
    store: BlobStore, client: httpx.AsyncClient
) -> None:
    answer = await client.get(await link_to(store))
    assert (answer.status_code, answer.content) == (200, b"the bytes")
    assert answer.headers["content-type"].split(";")[0] == TYPE
    assert "filename*=UTF-8''B%C3%BCro" in answer.headers["content-disposition"]
    part = await client.get(await link_to(store), headers={"Range": "bytes=4-8"})
    assert (part.status_code, part.content) == (206, b"bytes")


async def test_a_link_without_name_and_type(
    store: BlobStore, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the credentials of a role: obstore's own signature."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    link = await link_to(store)
    assert "response-" not in link
    assert (await client.get(link)).content == b"the bytes"


async def test_every_part_of_a_link_is_signed(store: BlobStore, client: httpx.AsyncClient) -> None:
    """R11."""
    link = await link_to(store)
    query, another = query_of(link), query_of(await link_to(store, "a/c"))
    signature = query["X-Amz-Signature"]
    forged = {
        "signature": changed(link, X_Amz_Signature=signature[:-1] + "01"[signature[-1] == "0"]),
        "no signature": changed(link, X_Amz_Signature=None),
        "another's signature": changed(link, X_Amz_Signature=another["X-Amz-Signature"]),
        "other object": link.replace("/a/b?", "/a/c?"),
        "longer life": changed(link, X_Amz_Expires="61"),
        "other name": changed(link, response_content_disposition="inline"),
        "other type": changed(link, response_content_type="text/html"),
        "no type": changed(link, response_content_type=None),
        "one more parameter": link + "&response-expires=never",
        "other key": changed(link, X_Amz_Credential="x" + query["X-Amz-Credential"]),
        "other day": changed(link, X_Amz_Date="20200101T000000Z"),
    }
    for what, url in forged.items():
        answer = await client.get(url)
        assert answer.status_code in {400, 403}, what
        assert b"the bytes" not in answer.content, what
        assert b"of another" not in answer.content, what
        if what != "no signature":  # a malformed request, by some servers' judgement
            assert answer.status_code == 403, what


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_link_is_for_reading(
    store: BlobStore, client: httpx.AsyncClient, method: str
) -> None:
    """R11."""
    answer = await client.request(method, await link_to(store), content=b"mine")
    assert answer.status_code == 403
    assert b"".join([chunk async for chunk in store.read("a/b")]) == b"the bytes"


async def test_a_link_expires(store: BlobStore, client: httpx.AsyncClient) -> None:
    """R11."""
    link = await link_to(store, seconds=1)
    for _ in range(100):
        answer = await client.get(link)
        if answer.status_code != 200:
            break
        await asyncio.sleep(0.2)
    assert answer.status_code == 403


async def test_a_deleted_blob_has_no_link(store: BlobStore, client: httpx.AsyncClient) -> None:
    link = await link_to(store)
    await store.delete("a/b")
    assert (await client.get(link)).status_code == 404


async def test_a_wrong_secret_is_refused(
    store: BlobStore, blob_url: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    wrong = open_store(blob_url)
    with pytest.raises(StorageUnavailable):
        await wrong.check()
    assert (await client.get(await link_to(wrong))).status_code == 403
    await wrong.close()
