"""Inline documents: whatever an encoder may write is read, whatever it may not is refused."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from urllib.parse import quote

import pybase64
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from files_api.kit.errors import InvalidBase64, TooLarge
from ocr_api.documents import _decode_into

LIMIT = 1 << 20
HEADS = st.sampled_from(
    [
        "",
        "data:;base64,",
        "data:application/pdf;base64,",
        "DATA:image/jpeg;Base64,",
        'data:application/pdf;name="x,y";base64,',
        "data:text/plain;charset=utf-8; base64 ,",
    ]
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # Smaller than the documents, so that every seam is met.
    monkeypatch.setattr("ocr_api.documents._PIECE", 7)


def decode(text: str, limit: int = LIMIT) -> bytes:
    out = io.BytesIO()
    size = _decode_into(text, out, limit)
    assert size == len(out.getvalue())
    return out.getvalue()


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=200),
    head=HEADS,
    urlsafe=st.booleans(),
    padded=st.booleans(),
    escaped=st.booleans(),
    width=st.integers(1, 80),
    gap=st.sampled_from(["", "\n", "\r\n", " ", "\t"]),
)
def test_what_encoders_write_is_read(
    content: bytes, head: str, urlsafe: bool, padded: bool, escaped: bool, width: int, gap: str
) -> None:
    encode = pybase64.urlsafe_b64encode if urlsafe else pybase64.b64encode
    text = encode(content).decode()
    text = text if padded else text.rstrip("=")
    text = gap.join(text[at : at + width] for at in range(0, len(text), width))
    text = quote(text, safe="") if escaped else text
    assert decode(head + text) == content


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="AZaz09+/-_= \n%2BFd;,:\x00é", max_size=60), head=HEADS)
@example(text="A", head="")
@example(text="=", head="")
@example(text="AA=A", head="data:;base64,")
@example(text="000=00", head="")
def test_anything_else_is_refused_without_a_crash(text: str, head: str) -> None:
    try:
        content = decode(head + text)
    except InvalidBase64:
        return
    body = re.sub(r"%(?:0A|0D|20|09)", "", text, flags=re.IGNORECASE)
    for escape, meant in {"2B": "+", "2F": "/", "3D": "=", "2D": "-", "5F": "_"}.items():
        body = re.sub(f"%{escape}", meant, body, flags=re.IGNORECASE)
    assert re.fullmatch(r"[A-Za-z0-9+/_-]*={0,2}", re.sub(r"\s", "", body))
    assert len(content) == len(re.sub(r"[\s=]", "", body)) * 3 // 4


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=100), limit=st.integers(0, 100), lines=st.booleans())
def test_the_limit_is_exact(content: bytes, limit: int, lines: bool) -> None:
    text = (pybase64.encodebytes if lines else pybase64.b64encode)(content).decode()
    if len(content) <= limit:
        assert decode(text, limit) == content
        return
    with pytest.raises(TooLarge):
        decode(text, limit)


@settings(max_examples=200, deadline=None)
@given(head=st.text(max_size=40), body=st.text(max_size=40))
def test_any_text_after_the_scheme_is_data_or_an_error(head: str, body: str) -> None:
    with suppress(InvalidBase64):
        assert len(decode(f"data:{head},{body}")) <= len(head + body)
