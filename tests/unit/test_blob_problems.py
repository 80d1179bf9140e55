"""What `recto check` says about a blob store: in plain sentences, without secrets."""

from __future__ import annotations

import sys

import pytest

from ocr_api import checks
from ocr_api.settings import Settings
from tests import s3server


def problems(url: str) -> list[str]:
    return checks._blob_problems(Settings(blob_url=url))


def test_a_store_that_works_is_left_as_it_was(s3_url: str) -> None:
    assert problems(s3_url) == []
    assert s3server.objects(s3_url) == []


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://x", "there is no store 'ftp'; known: file, s3"),
        ("s3://b?secret=x", "no option secret; there are: endpoint, region, style"),
        ("s3://me:pass@b", "credentials are not part of the URL; set AWS_ACCESS_KEY_ID and so on"),
        ("s3://bkt?endpoint=http://127.0.0.1:9", "the store takes no blob (no answer)"),
    ],
)
def test_what_is_wrong(url: str, sentence: str, s3_url: str) -> None:
    assert problems(url) == [f"RECTO_BLOB_URL: {sentence}"]


def test_a_missing_bucket(s3_url: str) -> None:
    found = problems(s3_url.replace("recto-", "gone-"))
    assert found == ["RECTO_BLOB_URL: the store takes no blob (NoSuchBucket)"]


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("files_api.blobs.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert problems("s3://bucket") == [
        "RECTO_BLOB_URL: obstore is not installed: pip install 'recto[s3]'"
    ]
