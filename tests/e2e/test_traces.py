"""One request through a served Recto: its metrics, its log lines, its trace, by whole processes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import otlp
from tests.e2e import reading
from tests.e2e.reading import SMALL, Standin

pytestmark = pytest.mark.shared

PAGES = 3
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "congo=t61rcWkgMzE"}
CHAT = f"chat {SMALL}"


@pytest.fixture(scope="module")
def standin() -> Iterator[Standin]:
    with reading.standin() as standin:
        yield standin


def told(standin: Standin, name: str) -> list[dict[str, Any]]:
    """Return the headers of what the stand-in was asked for a request."""
    standin.settled()
    sent = [one["headers"] for one in standin.log()]
    return [one for one in sent if one["x-request-id"].startswith(f"{name}-p")]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the log of a service that has ended."""
    return [
        json.loads(line) for line in (folder / "service" / "log.jsonl").read_text().splitlines()
    ]


def samples(page: str, stage: str) -> int:
    name = f'ocr_page_duration_seconds_count{{model="{SMALL}",stage="{stage}"}}'
    found = re.search(rf"^{re.escape(name)} ([0-9.]+)$", page, re.MULTILINE)
    return int(float(found[1])) if found else 0


def test_without_traces_the_callers_trace_goes_on_unchanged(
    standin: Standin, tmp_path: Path
) -> None:
    name = reading.new_name()
    with reading.serving(tmp_path, [standin.base]) as service:
        answer = service.post(reading.pdf("plain", PAGES), name=name, headers=SENT)
        assert answer.status_code == 200, answer.text
        page = service.metrics()
    asked = told(standin, name)
    assert len(asked) == PAGES
    assert {headers["traceparent"] for headers in asked} == {SENT["traceparent"]}
    counts = {
        stage: samples(page, stage) for stage in ("fetch", "render", "infer", "post", "total")
    }
    assert counts == {"fetch": 1, "render": PAGES, "infer": PAGES, "post": PAGES, "total": PAGES}
    for lane in ("interactive", "background"):
        assert f'ocr_queue_oldest_seconds{{lane="{lane}"}} 0.0' in page
    ours = [line for line in lines(tmp_path) if line.get("request_id") == name]
    assert {line["trace_id"] for line in ours} == {TRACE}
    [ended] = [line for line in ours if line["event"] == "ocr"]
    assert ended["outcome"] == "ok"
    assert (ended["card"], ended["pages"], ended["failed"]) == (SMALL, PAGES, 0)
    assert {"org", "key", "model", "reused", "seconds", "ts", "level"} <= ended.keys()


def test_a_document_is_one_trace_that_the_engine_joins(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported at the end at the latest; no word of the document is in it."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=otlp.NEEDED)
    name = reading.new_name()
    with otlp.collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with reading.serving(tmp_path, [standin.base], TRACES="true") as service:
            answer = service.post(reading.pdf("confidential", PAGES), name=name, headers=SENT)
            assert answer.status_code == 200, answer.text
    root = collector.one("POST /v1/ocr")
    assert (root.trace_id, root.parent_id) == (TRACE, SPAN)
    assert root.facts["recto.request.id"] == name
    pages = {one.facts["recto.page.index"]: one for one in collector.named("page")}
    assert [*sorted(pages)] == [0, 1, 2]
    assert {one.parent_id for one in pages.values()} == {root.span_id}
    assert collector.one("fetch").parent_id == root.span_id
    for stage in ("render", CHAT, "post"):
        found = {one.facts["recto.page.index"]: one.parent_id for one in collector.named(stage)}
        assert found == {index: page.span_id for index, page in pages.items()}
    asked = collector.named(CHAT)
    assert all(one.facts["gen_ai.usage.output_tokens"] > 0 for one in asked)
    assert {one.facts["gen_ai.response.model"] for one in asked} == {SMALL}
    assert {one.facts["server.address"] for one in asked} == {"127.0.0.1"}
    parents = {f"00-{TRACE}-{one.span_id}-01" for one in asked}
    assert {headers["traceparent"] for headers in told(standin, name)} == parents
    exported = b"".join(collector.bodies)
    text = answer.json()["pages"][0]["markdown"]
    assert text[:20].encode() not in exported
    assert b"confidential" not in exported
    assert {line["trace_id"] for line in lines(tmp_path) if line.get("request_id") == name} == {
        TRACE
    }


def test_a_collector_that_hangs_delays_neither_requests_nor_the_end(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=otlp.NEEDED)
    with otlp.collecting() as collector:
        collector.open.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with reading.serving(tmp_path, [standin.base], TRACES="true") as service:
            for number in range(3):
                answer = service.post(reading.pdf(f"hang {number}", PAGES))
                assert answer.status_code == 200, answer.text
        # The service has ended within the seconds that `serving` gives it.
        assert collector.spans == []
