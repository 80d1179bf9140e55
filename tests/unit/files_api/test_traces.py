"""Which trace a request belongs to, and what is exported of it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from files_api.kit import errors, observe, traceparent, traces, web
from tests import otlp

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def headers(parent: str | None, *states: str) -> list[tuple[bytes, bytes]]:
    found = [] if parent is None else [(b"traceparent", parent.encode("latin-1"))]
    return found + [(b"tracestate", state.encode("latin-1")) for state in states]


# --- W3C Trace Context, level 1 -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent", "sampled"),
    [
        (PARENT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f" {PARENT}\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"cc-{TRACE}-{SPAN}-00-", False),
    ],
)
def test_a_callers_trace_is_read(parent: str, sampled: bool) -> None:
    found = traceparent.read(headers(parent))
    assert found == traceparent.Caller(parent.strip(), TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        PARENT.upper(),
        PARENT[:-1],
        f"{PARENT}-",
        f"{PARENT}-more",
        f"{PARENT}0",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[:-1]}\xe9-{SPAN}-01",
        f"00 {TRACE} {SPAN} 01",
        f"cc-{TRACE}-{SPAN}-01.what-comes-later",
        f"cc-{TRACE}-{SPAN}-01-\r\nx: y",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 300}",
        f"{PARENT},{PARENT}",
        f"{PARENT}\n",
    ],
)
def test_a_malformed_trace_is_as_if_there_were_none(parent: str | None) -> None:
    assert traceparent.read(headers(parent, "a=1")) is None


def test_two_traceparents_are_none() -> None:
    assert traceparent.read([*headers(PARENT), *headers(PARENT)]) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ([], ""),
        (["congo=t61rcWkgMzE"], "congo=t61rcWkgMzE"),
        (["a=1,b=2", "c=3"], "a=1,b=2,c=3"),
        (["a=1 , b=2"], "a=1 , b=2"),
        (["a=1,,b=2,"], "a=1,,b=2,"),
        (["1t@sys=x"], "1t@sys=x"),
        (["a= x y"], "a= x y"),
        ([""], ""),
        ([" , "], ""),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a="], ""),
        (["a=b=c"], ""),
        (["a=\xe9"], ""),
        (["a=1\x01"], ""),
        ([",".join(f"k{n}=1" for n in range(33))], ""),
        ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
        ([f"a={'x' * 257}"], ""),
        ([f"{'a' * 257}=x"], ""),
    ],
)
def test_a_state_is_passed_on_or_dropped_without_the_trace(states: list[str], kept: str) -> None:
    found = traceparent.read(headers(PARENT, *states))
    assert found is not None
    assert found.state == kept


# --- off ------------------------------------------------------------------------------------------


def test_off_a_trace_goes_on_as_it_came() -> None:
    """A service that records nothing makes no parent of its own."""
    assert not traces.is_on()
    assert traces.current().headers() == {}
    with traces.request(headers(PARENT, "a=1", "b=2")) as span:
        assert span is traces.NOTHING
        assert traces.current().headers() == {"traceparent": PARENT, "tracestate": "a=1,b=2"}
        assert observe.trace_id.get() == TRACE
        with traces.span("page", attributes={"a": 1}) as inner:
            inner.note({"b": 2})
            assert inner.headers()["traceparent"] == PARENT
    with traces.request(headers("nonsense", "a=1")):
        assert traces.current().headers() == {}
        assert observe.trace_id.get() == ""
    assert traces.current().headers() == {}


async def test_a_log_line_names_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recto.access")
    app = web.FrontDoor(FastAPI())
    lines = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
        for sent in ({"traceparent": PARENT}, {"traceparent": "nonsense"}, {}):
            handler = _Formatted()
            logging.getLogger("recto.access").addHandler(handler)
            await client.get("http://recto/nothing", headers=sent)
            logging.getLogger("recto.access").removeHandler(handler)
            lines += handler.lines
    assert [line.get("trace_id") for line in lines] == [TRACE, None, None]
    assert all({"ts", "level", "event", "request_id", "seconds"} <= line.keys() for line in lines)


class _Formatted(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(observe.JsonLines().format(record)))


def test_what_cannot_be_exported_is_said() -> None:
    found = traces.problems(
        {"OTEL_TRACES_EXPORTER": "jaeger", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    )
    assert found[-2:] == [
        "OTEL_TRACES_EXPORTER: Recto knows otlp and none only",
        "OTEL_EXPORTER_OTLP_PROTOCOL: Recto knows http/protobuf only",
    ]
    fine = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert traces.problems(fine) == traces.problems({})


# --- on -------------------------------------------------------------------------------------------


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[otlp.Collector]:
    """Traces are on, and exported to this collector."""
    pytest.importorskip("opentelemetry.sdk.trace", reason=otlp.NEEDED)
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=otlp.NEEDED)
    with otlp.collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        traces.start("1.2.3")
        yield collector
        collector.open.set()
        traces.stop()


def test_spans_are_exported_as_a_tree(collector: otlp.Collector) -> None:
    with traces.request(headers(PARENT, "congo=x")) as answer:
        answer.rename("GET /x")
        inside = traces.span("page", attributes={"recto.page.index": 3})
        with inside, traces.span("chat m", "client") as asking:
            asking.note({"gen_ai.response.finish_reasons": ("stop",)})
            sent = traces.current().headers()
    traces.stop()
    root, page, asked = (collector.one(name) for name in ("GET /x", "page", "chat m"))
    assert collector.paths == {"/v1/traces"}
    assert {one.trace_id for one in collector.spans} == {TRACE}
    assert [root.parent_id, page.parent_id, asked.parent_id] == [SPAN, root.span_id, page.span_id]
    assert [root.kind, page.kind, asked.kind] == ["server", "internal", "client"]
    assert page.facts == {"recto.page.index": 3}
    assert asked.facts == {"gen_ai.response.finish_reasons": ["stop"]}
    assert sent == {"traceparent": f"00-{TRACE}-{asked.span_id}-01", "tracestate": "congo=x"}
    assert root.service["service.name"] == "recto"
    assert root.service["service.version"] == "1.2.3"


def test_without_a_caller_a_trace_begins_here(collector: otlp.Collector) -> None:
    with traces.request([]):
        named = observe.trace_id.get()
        sent = traces.current().headers()
    traces.stop()
    root = collector.one("HTTP")
    assert (root.parent_id, root.trace_id) == ("", named)
    assert sent == {"traceparent": f"00-{named}-{root.span_id}-01"}


def test_a_failure_is_named_and_never_quoted(collector: otlp.Collector) -> None:
    for error in (errors.EngineTimeout("of the document: secret"), ValueError("secret")):
        with pytest.raises(type(error)), traces.span(type(error).__name__):
            raise error
    traces.stop()
    ours, other = collector.one("EngineTimeout"), collector.one("ValueError")
    assert ours.failed
    assert other.failed
    assert ours.facts == {"error.type": "engine_timeout"}
    assert other.facts == {"error.type": "ValueError"}
    assert b"secret" not in b"".join(collector.bodies)


def test_what_the_caller_did_not_sample_is_not_exported(collector: otlp.Collector) -> None:
    with traces.request(headers(f"00-{TRACE}-{SPAN}-00")), traces.span("page"):
        sent = traces.current().headers()["traceparent"]
    traces.stop()
    assert collector.spans == []
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith("-00")


def test_sampling_is_as_the_environment_says(
    collector: otlp.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another")
    traces.start("1")
    with traces.request([]), traces.span("page"):
        pass
    traces.stop()
    assert collector.spans == []
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    traces.start("1")
    with traces.request(headers(PARENT)), traces.span("page"):
        assert traces.current().headers() == {"traceparent": PARENT}
    traces.stop()
    assert collector.spans == []
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    traces.start("1")
    with traces.request(headers(f"00-{TRACE}-{SPAN}-00")), traces.span("page"):
        pass
    traces.stop()
    assert collector.one("page").service["service.name"] == "another"


def test_a_collector_that_hangs_delays_nobody(collector: otlp.Collector) -> None:
    collector.open.clear()
    begun = time.perf_counter()
    for _ in range(3000):  # more than fit into the queue
        with traces.span("page"):
            pass
    assert time.perf_counter() - begun < 5
    begun = time.perf_counter()
    traces.stop(0.2)
    assert 0.1 < time.perf_counter() - begun < 2


def test_a_collector_that_is_away_fails_nobody(
    collector: otlp.Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    traces.start("1")
    with traces.request([]), traces.span("page") as span:
        span.note({"a": 1})
    begun = time.perf_counter()
    traces.stop(0.2)
    assert time.perf_counter() - begun < 2


async def test_a_request_is_a_span_of_its_route(collector: otlp.Collector) -> None:
    app = FastAPI()

    @app.get("/v1/files/{file_id}")
    async def file(file_id: str) -> str:
        await asyncio.sleep(0)
        return file_id

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("secret")

    door = web.FrontDoor(app)
    web.add_error_handlers(app)
    transport = httpx.ASGITransport(app=door)
    async with httpx.AsyncClient(transport=transport, base_url="http://recto") as client:
        answer = await client.get("/v1/files/secret?token=secret", headers={"traceparent": PARENT})
        await client.get("/fails")
        await client.request("SECRET", "/secret")
        await client.get("/livez")
    traces.stop()
    root = collector.one("GET /v1/files/{file_id}")
    assert (root.kind, root.trace_id, root.parent_id) == ("server", TRACE, SPAN)
    assert root.facts == {
        "http.request.method": "GET",
        "http.route": "/v1/files/{file_id}",
        "http.response.status_code": 200,
        "recto.request.id": answer.headers["x-request-id"],
    }
    failed = collector.one("GET /fails")
    assert failed.failed
    assert failed.facts["error.type"] == "500"
    assert collector.one("_OTHER unmatched").facts["http.response.status_code"] == 404
    assert len(collector.spans) == 3
    assert b"secret" not in b"".join(collector.bodies).lower()
