"""The stages of a page: what is timed, and what is said in spans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from files_api.kit import metrics, traces
from files_api.kit.errors import EngineBusy, PageFailed
from ocr_api import meters, stages
from ocr_api.result import Reading, Usage
from tests import otlp

CARD = "test/stages"
URL = "https://user:secret@gpu-7:8443/v1?key=secret"


def counted(stage: meters.Stage) -> tuple[float, float]:
    """Return how many samples a stage has, and the sum of their seconds."""
    labels = {"model": CARD, "stage": stage}
    name = "ocr_page_duration_seconds"
    found = [
        metrics.REGISTRY.get_sample_value(f"{name}_{what}", labels) for what in ("count", "sum")
    ]
    return found[0] or 0.0, found[1] or 0.0


def test_a_stage_is_one_sample_with_what_went_before() -> None:
    count, seconds = counted("post")
    with stages.stage("post", CARD, 3, before=2.0):
        pass
    after = counted("post")
    assert after[0] == count + 1
    assert 2.0 <= after[1] - seconds < 2.5


def test_what_failed_is_timed_and_what_was_cancelled_is_not() -> None:
    before, _ = counted("render")
    with pytest.raises(PageFailed), stages.stage("render", CARD):
        raise PageFailed
    assert counted("render")[0] == before + 1
    with pytest.raises(asyncio.CancelledError), stages.stage("render", CARD):
        raise asyncio.CancelledError
    assert counted("render")[0] == before + 1


def test_a_page_is_timed_from_its_turn() -> None:
    before, _ = counted("total")
    told = []
    with stages.Total(CARD, 0) as page:
        begin = page.then(lambda: told.append("started"))
        begin()
        page.done("ok")
    assert told == ["started"]
    assert counted("total")[0] == before + 1
    with stages.Total(CARD, 1) as page:  # reused: says nothing about the model
        page.then(lambda: None)()
        page.done("reused")
    with pytest.raises(asyncio.CancelledError), stages.Total(CARD, 2):  # never had its turn
        raise asyncio.CancelledError
    with suppress(asyncio.CancelledError), stages.Total(CARD, 3) as page:
        page.then(lambda: None)()
        raise asyncio.CancelledError
    assert counted("total")[0] == before + 1
    with stages.Total(CARD, 4) as page:
        page.then(lambda: None)()
        page.done("failed", PageFailed())
    assert counted("total")[0] == before + 2


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[otlp.Collector]:
    """Traces are on, and exported to this collector."""
    pytest.importorskip("opentelemetry.sdk.trace", reason=otlp.NEEDED)
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=otlp.NEEDED)
    with otlp.collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        traces.start("1")
        yield collector
        traces.stop()


def test_each_stage_of_a_page_is_a_span_inside_it(collector: otlp.Collector) -> None:
    with traces.request([]) as answer:
        answer.rename("POST /v1/ocr")
        with stages.stage("fetch", CARD):
            pass
        with stages.Total(CARD, 7) as page:
            begin = page.then(lambda: None)
            begin()
            begin()  # it waited for another's reading first
            with stages.stage("render", CARD, 7):
                pass
            with stages.question(CARD, URL, 7) as asking:
                asking.answered(Reading("secret", usage=Usage(900, 42)))
            with stages.stage("post", CARD, 7):
                pass
            page.done("ok")
    traces.stop()
    root, total = collector.one("POST /v1/ocr"), collector.one("page")
    inside = [collector.one(name) for name in ("render", f"chat {CARD}", "post")]
    assert [one.parent_id for one in inside] == [total.span_id] * 3
    assert collector.one("fetch").parent_id == total.parent_id == root.span_id
    page_facts = {"recto.card": CARD, "recto.page.index": 7}
    assert total.facts == {**page_facts, "recto.page.outcome": "ok"}
    assert inside[0].facts == inside[2].facts == page_facts
    assert collector.one("fetch").facts == {"recto.card": CARD}
    assert inside[1].kind == "client"
    assert inside[1].facts == {
        **page_facts,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": CARD,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 900,
        "gen_ai.usage.output_tokens": 42,
        "server.address": "gpu-7",
        "server.port": 8443,
    }
    assert b"secret" not in b"".join(collector.bodies)


def test_failures_are_named_by_their_codes(collector: otlp.Collector) -> None:
    with stages.Total(CARD, 0) as page:
        page.then(lambda: None)()
        with pytest.raises(EngineBusy), stages.question(CARD, "http://gpu/v1", 0):
            raise EngineBusy("secret")
        page.done("failed", EngineBusy("secret"))
    with pytest.raises(asyncio.CancelledError), stages.question(CARD, None):
        raise asyncio.CancelledError
    traces.stop()
    asked, page_span = collector.one(f"chat {CARD}"), collector.one("page")
    assert (asked.failed, asked.facts["error.type"]) == (True, "engine_busy")
    assert (page_span.failed, page_span.facts["error.type"]) == (True, "engine_busy")
    assert asked.facts["server.port"] == 80
    assert collector.one("infer").facts["error.type"] == "CancelledError"
    assert b"secret" not in b"".join(collector.bodies)
