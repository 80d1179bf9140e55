"""Whatever JSON a client sends, the OCR routes answer in the superset, never with a 5xx (R9)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_api import app
from ocr_api.settings import Settings
from tests.conftest import running

FIELDS = [
    "model", "pages", "prompt", "document_annotation_prompt", "document_annotation_format",
    "bbox_annotation_format", "include_image_base64", "image_limit", "image_min_size",
    "table_format", "extract_header", "extract_footer", "include_blocks",
    "confidence_scores_granularity", "skip_special_tokens", "id", "allow_partial", "document",
    "type", "document_url", "image_url", "file_id", "document_content", "org_id", "url", "detail",
]  # fmt: skip

odd_texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "", "\x00", "0-", "-1", "1-2-3", "9" * 30, "data:", "data:,x", "data:;base64,@@@",
            "data:application/pdf;base64,JVBERi0=", "JVBERi0xLjQK", "http://127.0.0.1:1/x",
            "http://[::1", "http://a@b/", "file:///etc/passwd", "//x", "echo", "rapidocr",
            "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", "json_schema", "document_url", "\ue0000\ue001",
        ]
    ),
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), odd_texts)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8)
paths = st.sampled_from(
    ["/v1/ocr", "/v1/files/0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b/ocr", "/v1/files/x/ocr"]
)


async def ask_all(asked: list[tuple[str, Any]], folder: Path) -> list[httpx.Response]:
    service = app.create(
        Settings(data_dir=folder, show_hidden_models=True, render_processes=1, fetch_seconds=1)
    )
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        return [await client.post(path, content=json.dumps(body)) for path, body in asked]


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, Any]]:
    """Collect the requests first: one service answers all of them."""
    found: list[tuple[str, Any]] = []

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(paths, st.one_of(bodies, values))
    def collect(path: str, body: Any) -> None:
        found.append((path, body))

    collect()
    return found


def test_hostile_bodies_are_4xx_in_the_superset(
    asked: list[tuple[str, Any]], tmp_path: Path
) -> None:
    answers = asyncio.run(ask_all(asked, tmp_path))
    assert len(answers) >= 400
    for (path, body), answer in zip(asked, answers, strict=True):
        assert 400 <= answer.status_code < 500, (path, body, answer.text[:300])
        error = answer.json()
        assert error["error"] == {key: error[key] for key in ("message", "type", "param", "code")}
        assert isinstance(error["detail"], list) == (answer.status_code == 422)
        assert len(answer.text) < 4000
