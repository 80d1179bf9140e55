"""Usage as CSV: read back by a reader of CSV, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from ocr_api.usage.report import Bucket, Used
from ocr_api.usage.table import COUNTS, body, header

USED = Used(2, 5, 1, 0, 2**40, 7, 0, 0, 0, 0, 900, 1.5)


def test_the_lines() -> None:
    rows = [
        Bucket(1_795_305_600, 1_795_392_000, [replace(USED, model="a,b", key_id=None)]),
        Bucket(1_795_392_000, 1_795_395_600, []),
    ]
    assert (
        header(("model", "key")) == "start_time,end_time,model,key_id," + ",".join(COUNTS) + "\r\n"
    )
    assert body(rows, ("model", "key")) == (
        '2026-11-22T00:00:00Z,2026-11-23T00:00:00Z,"a,b",,'
        "2,5,1,0,1099511627776,7,1099511627783,0,0,0,0,900,1.5\r\n"
    )
    assert body([], ()) == ""


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("a=1", "a=1"),
        ('a"b', 'a"b'),
        ("a\nb", "a\nb"),
        ("ä", "ä"),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    lines = body([Bucket(1_795_305_600, 1_795_392_000, [replace(USED, model=text)])], ("model",))
    (row,) = csv.reader(io.StringIO(lines, newline=""))
    assert row[2] == cell
    assert len(row) == 3 + len(COUNTS)
