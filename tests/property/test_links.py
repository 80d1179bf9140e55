"""Signed links: what was signed verifies, and nothing near it does."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from files_api.kit.errors import LinkForbidden
from files_api.links import MAX_HOURS, Links, ParsedLink

NOW = 1_800_000_000
LINKS = Links(b"0" * 32)
IDS = st.uuids().map(str)
LIVES = st.integers(1, MAX_HOURS * 3600)
BASES = st.sampled_from(
    ["http://localhost:8000", "https://ocr.example.org/", "http://[::1]:1", "https://h/a/b"]
)


@given(BASES, IDS, IDS, LIVES, st.data())
def test_a_link_holds_from_signing_to_expiry(
    base: str, org: str, file_id: str, life: int, data: st.DataObject
) -> None:
    url = LINKS.sign(base, org, file_id, NOW + life)
    assert url.startswith(f"{base.rstrip('/')}/v1/files/{file_id}/content?")
    link = LINKS.parse(url)
    assert link is not None
    assert (link.org, link.file_id) == (org, file_id)
    LINKS.verify(link, NOW + data.draw(st.integers(0, life - 1)))
    with pytest.raises(LinkForbidden):
        LINKS.verify(link, NOW + life)


@given(IDS, IDS, st.integers(0, 10_000), st.characters(min_codepoint=0, max_codepoint=0x2FF))
def test_one_character_changed_anywhere_after_the_host(
    org: str, file_id: str, place: int, letter: str
) -> None:
    base = "http://h"
    url = LINKS.sign(base, org, file_id, NOW + 60)
    place = len(base) + place % (len(url) - len(base))
    changed = url[:place] + letter + url[place + 1 :]
    # A prefix of the path and a fragment are not part of what is signed.
    assume(changed != url and place > len(base) and letter != "#")
    link = LINKS.parse(changed)
    if link is not None:
        with pytest.raises(LinkForbidden):
            LINKS.verify(link, NOW)


@given(st.text())
def test_any_text_can_be_parsed(url: str) -> None:
    assert LINKS.parse(url) is None


@given(*[st.text()] * 5)
def test_any_parts_are_forbidden(file_id: str, org: str, exp: str, kid: str, sig: str) -> None:
    with pytest.raises(LinkForbidden):
        LINKS.verify(ParsedLink(file_id, org, exp, kid, sig), NOW)
    real = next(iter(LINKS._keys))
    ids = (str(uuid.UUID(int=1)), str(uuid.UUID(int=2)))
    with pytest.raises(LinkForbidden):
        LINKS.verify(ParsedLink(*ids, exp, real, sig), NOW)
