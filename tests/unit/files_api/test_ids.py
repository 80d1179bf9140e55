"""Ids: made in order, read strictly."""

from __future__ import annotations

import time
import uuid

import pytest

from files_api.kit.errors import InvalidFileId
from files_api.kit.ids import check_id, is_id, new_id, seconds_of


def test_ids_are_uuid7_in_order() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {uuid.UUID(made).version for made in ids} == {7}
    assert all(is_id(made) for made in ids)


def test_an_id_tells_when_it_was_made() -> None:
    before = int(time.time())
    assert before <= seconds_of(new_id()) <= time.time()
    assert seconds_of("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b") == 0x0193A1B2C3D4 // 1000


def test_capital_letters_become_small() -> None:
    assert check_id("0193A1B2-C3D4-7E5F-8A9B-0C1D2E3F4A5B") == (
        "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
        "{0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b}",
        "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b\n",
        "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5g",
        "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5\uff42",
        "../" * 12,
        "0" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidFileId):
        check_id(text)
