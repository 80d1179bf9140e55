"""A form gives the same events however its bytes are cut, and never anything but a 400."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from files_api.kit import multipart
from files_api.kit.errors import InvalidRequest
from files_api.kit.multipart import Event, Field, FileData, FileEnd, FileStart, parts

BOUNDARY = b"--x-boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=("Cc", "Cs")),
    min_size=1,
    max_size=20,
)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"\r\n", b"--", BOUNDARY, b"\r", b"\n--", b"a"]), max_size=12).map(
        b"".join
    ),
).filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data)
FIELDS = st.tuples(NAMES, st.none(), CONTENTS)
FILES = st.tuples(NAMES, NAMES, CONTENTS)
FORMS = st.lists(st.one_of(FIELDS, FILES), max_size=6)


def encode(form: list[tuple[str, str | None, bytes]]) -> bytes:
    body = b""
    for name, filename, content in form:
        head = f'form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename}"\r\nContent-Type: image/png'
        body += b"--%s\r\nContent-Disposition: %s\r\n\r\n" % (BOUNDARY, head.encode())
        body += content + b"\r\n"
    return body + b"--%s--\r\n" % BOUNDARY


def read(chunks: list[bytes], content_type: str = TYPE) -> list[Event]:
    """Return the events with neighbouring data joined: only their sum is promised."""

    async def feed() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[Event]:
        events: list[Event] = []
        async for event in parts(feed(), content_type):
            if isinstance(event, FileData) and events and isinstance(events[-1], FileData):
                events[-1] = FileData(events[-1].data + event.data)
            else:
                events.append(event)
        return events

    return asyncio.run(collect())


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@given(FORMS, st.lists(st.integers(0, 5000), max_size=20))
def test_any_chunking_gives_the_same_events(
    form: list[tuple[str, str | None, bytes]], places: list[int]
) -> None:
    wanted: list[Event] = []
    for name, filename, content in form:
        if filename is None:
            wanted.append(Field(name, text(content)))
            continue
        wanted.append(FileStart(name, filename.split("\\")[-1], "image/png"))
        wanted += [FileData(content)] if content else []
        wanted.append(FileEnd())
    assert read(cut(encode(form), places)) == wanted


def test_one_byte_at_a_time() -> None:
    body = encode([("purpose", None, b"ocr"), ("file", "ä.pdf", b"%PDF-1.7\r\n--\r\n")])
    assert read([bytes([byte]) for byte in body]) == read([body])


@given(FORMS.filter(bool), st.data())
def test_a_body_that_is_cut_short_is_refused(
    form: list[tuple[str, str | None, bytes]], data: st.DataObject
) -> None:
    body = encode(form)
    end = data.draw(st.integers(0, len(body) - 3))  # the last line end is not needed
    with pytest.raises(InvalidRequest):
        read([body[:end]])


@given(st.binary(max_size=400), st.lists(st.integers(0, 5000), max_size=5))
def test_garbage_is_refused(body: bytes, places: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        read(cut(body, places))


@given(FORMS.filter(bool), st.integers(0, 2000), st.binary(min_size=1, max_size=3))
def test_damage_is_a_400_at_worst(
    form: list[tuple[str, str | None, bytes]], place: int, damage: bytes
) -> None:
    body = encode(form)
    place %= len(body)
    try:
        read([body[:place] + damage + body[place + len(damage) :]])
    except InvalidRequest as error:
        assert error.message  # noqa: PT017 - either outcome is right


@given(st.text(max_size=60))
def test_any_content_type_is_answered(content_type: str) -> None:
    with pytest.raises(InvalidRequest, match="multipart"):
        read([b"x"], content_type)


@pytest.mark.parametrize(
    ("head", "filename"),
    [
        ('name="f"; filename=""', ""),
        ("name=f; filename=a.pdf", "a.pdf"),
        ('name="f"; filename="a\\"b.pdf"', 'a"b.pdf'),
        ('name="f"; filename="a; b=c.pdf"', "a; b=c.pdf"),
        ("name=\"f\"; filename*=UTF-8''%E2%82%AC.pdf", "€.pdf"),
        ("name=\"f\"; filename*=iso-8859-1'en'%A3.pdf", "£.pdf"),
        ('name="f"; filename="b.pdf"; filename*=utf-16\'\'x', "b.pdf"),
        ('name="f"; filename="b.pdf"; filename*=utf-8\'\'%ff', "b.pdf"),
        ('name="f"; filename="; filename*=UTF-8\'\'evil"', "; filename*=UTF-8''evil"),
    ],
)
def test_file_names_as_clients_write_them(head: str, filename: str) -> None:
    form = f"--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; {head}\r\n\r\n1\r\n"
    body = f"{form}--{BOUNDARY.decode()}--\r\n".encode()
    assert read([body])[0] == FileStart("f", filename, "")


def test_names_that_are_not_utf8_are_latin1() -> None:
    body = encode([("file", "X", b"1")]).replace(b'"X"', b'"\xe9.pdf"')
    assert read([body])[0] == FileStart("file", "é.pdf", "image/png")


def test_limits() -> None:
    within = encode([("a", None, b"x" * multipart.MAX_FIELD_BYTES)] * 2)
    assert len(read([within])) == 2
    many = [("a", None, b"")] * multipart.MAX_PARTS
    assert len(read([encode(many)])) == multipart.MAX_PARTS
    too_long = "x" * multipart.MAX_HEADER_BYTES
    for form in (
        encode([("a", None, b"x" * (multipart.MAX_FIELD_BYTES + 1))]),
        encode([*many, ("a", None, b"")]),
        encode([(too_long, None, b"")]),
        encode([("a", None, b"")]).replace(b"\r\n\r\n", b"\r\nx: y" * 20 + b"\r\n\r\n"),
        encode([("a", None, b"")]).replace(
            b"\r\n\r\n", b"\r\nx: " + too_long.encode() + b"\r\n\r\n"
        ),
    ):
        with pytest.raises(InvalidRequest):
            read([form])
        with pytest.raises(InvalidRequest):
            read([form[place : place + 100] for place in range(0, len(form), 100)])


def test_nothing_is_held_back() -> None:
    """Each chunk of a file is passed on before the next one is asked for."""
    body = encode([("file", "a", b"x" * 100_000)])
    held: list[int] = []
    fed = passed = 0

    async def feed() -> AsyncIterator[bytes]:
        nonlocal fed
        for start in range(0, len(body), 1000):
            held.append(fed - passed)
            fed += len(body[start : start + 1000])
            yield body[start : start + 1000]

    async def count() -> None:
        nonlocal passed
        async for event in parts(feed(), TYPE):
            if isinstance(event, FileData):
                passed += len(event.data)

    asyncio.run(count())
    assert max(held) < 300  # the part's headers and the length of a boundary
