"""Traces: which trace a request belongs to, and what it does as spans of OpenTelemetry.

Off, which is the default, a span is an object that does nothing, no library is loaded, and the
caller's trace goes on to the model's server as it came: a service that records nothing forwards
``traceparent`` and ``tracestate`` unchanged, since a new parent would be a span that nobody finds
(W3C Trace Context, level 1, https://www.w3.org/TR/trace-context-1/: "traceparent", "tracestate",
"Mutating"). On, the spans are exported over OTLP/HTTP by a thread that never makes a request wait
and drops what it cannot send. The standard ``OTEL_*`` variables say where to, and how many.

No span may hold a document's text, a prompt, a file's name, or an address with a query.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal

from files_api.kit import observe
from files_api.kit.errors import AppError
from files_api.kit.traceparent import SAMPLED, Caller, read

Kind = Literal["internal", "server", "client"]
"""Whose work a span is: our own, our answer to a request, our request to somebody."""
Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]

ERROR_TYPE = "error.type"
"""OpenTelemetry's name for the kind of a failure: the code of our errors, or a class."""
STOP_SECONDS = 5.0
"""Longest time of the last export."""
MISSING = "the OpenTelemetry SDK is not installed: pip install 'recto[otel]'"

_EXPORTERS, _PROTOCOLS = ("otlp", "none"), ("http/protobuf",)


class Span:
    """A piece of work, for a ``with`` block; this one records nothing."""

    __slots__ = ()

    def __enter__(self) -> Span:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def note(self, facts: Attributes) -> None:
        """Note facts; never a document's text."""

    def rename(self, name: str) -> None:
        """Give it a better name, once that is known; one of a small set."""

    def fail(self, kind: str) -> None:
        """Mark it as failed, with one word of a small set; an exception does so by itself."""

    def headers(self) -> dict[str, str]:
        """Return the headers that let a server's spans join it, or else the caller's trace."""
        caller = _caller.get()
        if caller is None:
            return {}
        return _headers(caller.parent, caller.state)


NOTHING = Span()


class _Traced(Span):
    """A span of a trace that begins or goes on here; this one is not sampled, so not exported."""

    __slots__ = ("_token", "context")

    def __init__(self, context: Any) -> None:
        self.context = context
        """OpenTelemetry's ``SpanContext``: its ids, flags and state."""
        self._token: Any = None

    def __enter__(self) -> Span:
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # Not its message: that may quote what was read.
            self.fail(error.code if isinstance(error, AppError) else type(error).__name__)
        self.end()
        _current.reset(self._token)

    def end(self) -> None:
        """Hand it over to be exported."""

    def headers(self) -> dict[str, str]:
        context = self.context
        flags = context.trace_flags & SAMPLED  # level 1 knows no other
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
        return _headers(parent, context.trace_state.to_header())


class _Recorded(_Traced):
    """A span that is exported: plain data until it ends.

    Why not OpenTelemetry's own: it takes locks, copies each fact, and asks the sampler for every
    span, 120 µs each where it was measured, although what holds for a trace holds for its spans.
    """

    __slots__ = ("_facts", "_kind", "_name", "_parent", "_recorder", "_since", "_status")

    def __init__(
        self,
        recorder: _Recorder,
        context: Any,
        parent: Any,
        name: str,
        kind: Kind,
        facts: Attributes | None,
    ) -> None:
        super().__init__(context)
        self._recorder = recorder
        self._parent = parent
        self._name = name
        self._kind: Kind = kind
        self._facts: dict[str, Value] = {**facts} if facts else {}
        self._status = recorder.unset
        self._since = time.time_ns()

    def note(self, facts: Attributes) -> None:
        self._facts.update(facts)

    def rename(self, name: str) -> None:
        self._name = name

    def fail(self, kind: str) -> None:
        self._facts[ERROR_TYPE] = kind
        self._status = self._recorder.failed

    def end(self) -> None:
        self._recorder.hand_over(
            name=self._name,
            context=self.context,
            parent=self._parent,
            attributes=self._facts,
            kind=self._recorder.kinds[self._kind],
            status=self._status,
            start_time=self._since,
            end_time=time.time_ns(),
        )


class _Recorder:
    """Makes spans and exports them; the only place that loads OpenTelemetry's SDK.

    Why imports inside functions: without traces nobody shall need the libraries, nor wait for them.
    """

    def __init__(self, version: str) -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        ours = Resource({"service.name": "recto", "service.version": version})
        self._resource = ours.merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("recto", version)
        self._provider = sdk.TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self._processor: Any = None
        if os.environ.get("OTEL_TRACES_EXPORTER", "") != "none":
            self._export()
        self._api, self._flags, self._empty = trace, trace.TraceFlags, Context()
        self._span = sdk.ReadableSpan
        self.failed, self.unset = trace.Status(trace.StatusCode.ERROR), trace.Status()
        self.kinds: dict[Kind, Any] = {
            "internal": trace.SpanKind.INTERNAL,
            "server": trace.SpanKind.SERVER,
            "client": trace.SpanKind.CLIENT,
        }

    def _export(self) -> None:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        self._processor = BatchSpanProcessor(trace_exporter.OTLPSpanExporter())
        self._provider.add_span_processor(self._processor)

    def span(self, name: str, kind: Kind, facts: Attributes | None) -> Span:
        """Return a span inside the current one, or else inside the caller's."""
        parent = _current.get()
        if isinstance(parent, _Recorded):
            above = parent.context
            context = self._context_of(above.trace_id, above.trace_flags, above.trace_state)
            return _Recorded(self, context, above, name, kind, facts)
        return NOTHING if isinstance(parent, _Traced) else self._first(name, kind, facts)

    def _first(self, name: str, kind: Kind, facts: Attributes | None) -> Span:
        """Return the first span of ours in a trace; the sampler decides for all of them."""
        caller = _caller.get()
        above = self._remote(caller) if caller else None
        trace_id = above.trace_id if above else self._provider.id_generator.generate_trace_id()
        said = self._provider.sampler.should_sample(
            self._inside(above), trace_id, name, self.kinds[kind], facts
        )
        flags = self._flags(SAMPLED if said.decision.is_sampled() else 0)
        context = self._context_of(trace_id, flags, said.trace_state)
        if not said.decision.is_sampled():
            return _Traced(context)
        return _Recorded(self, context, above, name, kind, {**(facts or {}), **said.attributes})

    def _context_of(self, trace_id: int, flags: Any, state: Any) -> Any:
        """Return the ``SpanContext`` of a new span."""
        number = self._provider.id_generator.generate_span_id()
        return self._api.SpanContext(trace_id, number, False, flags, state)

    def _remote(self, caller: Caller) -> Any:
        """Return the ``SpanContext`` of a caller's span."""
        return self._api.SpanContext(
            int(caller.trace_id, 16),
            int(caller.span_id, 16),
            is_remote=True,
            trace_flags=self._flags(SAMPLED if caller.sampled else 0),
            trace_state=self._api.TraceState.from_header([caller.state]) if caller.state else None,
        )

    def _inside(self, above: Any) -> Any:
        """Return the ``Context`` that a sampler looks for a parent in."""
        parent = self._api.NonRecordingSpan(above) if above else self._api.INVALID_SPAN
        return self._api.set_span_in_context(parent, self._empty)

    def hand_over(self, **facts: Any) -> None:
        """Have a span exported that has ended; returns at once."""
        if self._processor is not None:
            span = self._span(**facts, resource=self._resource, instrumentation_scope=self._scope)
            self._processor.on_end(span)

    def close(self, seconds: float) -> None:
        """Export what is left; what takes longer is lost."""
        # Its own bound is no bound where the exporter tries again.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True, name="traces-end")
        closing.start()
        closing.join(seconds)


class _State:
    recorder: _Recorder | None = None


_STATE = _State()
_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


def start(version: str) -> None:
    """Record and export spans from now on, until `stop`.

    Raises:
        ImportError: the libraries of the extra ``otel`` are not installed.
    """
    stop()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true":
        _STATE.recorder = _Recorder(version)


def stop(seconds: float = STOP_SECONDS) -> None:
    """Record no more, and export what is left; takes so many seconds at most."""
    recorder, _STATE.recorder = _STATE.recorder, None
    if recorder is not None:
        recorder.close(seconds)


def is_on() -> bool:
    """Tell whether spans are recorded."""
    return _STATE.recorder is not None


def problems(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return why spans could not be exported as things are, in sentences."""
    found = []
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: PLC0415
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415
    except ImportError:
        found.append(f"RECTO_TRACES: {MISSING}")
    for name, known in (
        ("OTEL_TRACES_EXPORTER", _EXPORTERS),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", _PROTOCOLS),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", _PROTOCOLS),
    ):
        if environment.get(name, "") not in ("", *known):
            found.append(f"{name}: Recto knows {' and '.join(known)} only")
    return found


def span(name: str, kind: Kind = "internal", attributes: Attributes | None = None) -> Span:
    """Return a span for a ``with`` block, inside the one that is open; nothing while off."""
    recorder = _STATE.recorder
    return NOTHING if recorder is None else recorder.span(name, kind, attributes)


def current() -> Span:
    """Return the span that is open here; one that does nothing where there is none."""
    return _current.get()


@contextmanager
def request(headers: Iterable[tuple[bytes, bytes]], *, record: bool = True) -> Iterator[Span]:
    """Join the trace that a request's headers name while the block runs; give its span.

    Args:
        headers: as ASGI has them: lower-case names and values, as bytes.
        record: make a span of it, where traces are on.
    """
    caller = read(headers)
    joined = _caller.set(caller)
    opened = span("HTTP", "server") if record else NOTHING
    trace_id = caller.trace_id if caller else ""
    if isinstance(opened, _Traced):
        trace_id = f"{opened.context.trace_id:032x}"
    named = observe.trace_id.set(trace_id)
    try:
        with opened:
            yield opened
    finally:
        observe.trace_id.reset(named)
        _caller.reset(joined)


def _headers(parent: str, state: str) -> dict[str, str]:
    return {"traceparent": parent} | ({"tracestate": state} if state else {})
