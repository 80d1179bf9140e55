"""The chart's README tells every value and its default as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart.fleet import CHART, EMBEDDED, FILES, Json, whole

ROW = re.compile(r"^\| `([\w.-]+)` \| `(.*?)` \|")


def rows() -> dict[str, str]:
    text = (CHART / "README.md").read_text("utf-8").partition("<!-- values -->")[2]
    return {m[1]: m[2] for m in map(ROW.match, text.splitlines()) if m}


def leaves(values: Json, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is no map of others, by its path."""
    for key, value in values.items():
        if isinstance(value, dict) and value and f"{path}{key}" not in rows():
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_every_value_stands_in_the_readme_with_its_default() -> None:
    told = rows()
    for path, value in leaves(whole(EMBEDDED)):
        assert path in told, path
        assert told[path] == json.dumps(value, ensure_ascii=False), path


def test_readme_tells_of_no_value_that_is_not_there() -> None:
    there = {path for path, _ in leaves(whole(EMBEDDED))}
    assert {path for path in rows() if "NAME" not in path} - there == set()


def test_readme_names_every_values_file() -> None:
    text = (CHART / "README.md").read_text("utf-8")
    assert [name for name in FILES if not name.startswith("ci/") and name not in text] == []
