"""A collector of spans on loopback: OTLP/HTTP with protobuf bodies, as the real ones take it.

Source: https://opentelemetry.io/docs/specs/otlp/ (1.x), "OTLP/HTTP", "Binary Protobuf Encoding".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NEEDED = "the extra `otel` is not installed"
KINDS = {1: "internal", 2: "server", 3: "client"}
ERROR = 2


@dataclass(frozen=True)
class Seen:
    """One span as it was exported."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    failed: bool
    facts: dict[str, Any]
    seconds: float
    service: dict[str, Any]


@dataclass
class Collector:
    """What has come so far."""

    url: str
    spans: list[Seen] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    open: threading.Event = field(default_factory=threading.Event)
    """While it is not set, nobody is answered."""

    def named(self, name: str) -> list[Seen]:
        """Return the spans of a name."""
        return [one for one in self.spans if one.name == name]

    def one(self, name: str) -> Seen:
        """Return the only span of a name."""
        [found] = self.named(name)
        return found

    def take(self, path: str, body: bytes) -> None:
        """Read what was exported."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
            ExportTraceServiceRequest,
        )

        self.paths.add(path)
        self.bodies.append(body)
        said: Any = ExportTraceServiceRequest()
        said.ParseFromString(body)
        for resource in said.resource_spans:
            service = _facts(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_seen(span, service) for span in scope.spans]


def _seen(span: Any, service: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        state=span.trace_state,
        failed=span.status.code == ERROR,
        facts=_facts(span.attributes),
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        service=service,
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(one) for one in found.values] if kind == "array_value" else found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.open.wait(60)
            collector.take(self.path, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    collector.open.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
