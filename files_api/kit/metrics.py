"""What this process counts for Prometheus, and the page that shows it.

Why no organisation in any label: each value of a label is a time series that is kept for ever,
and what an organisation did stands in the database. Routes are templates for the same reason.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST
"""Of what `page` returns: the Prometheus text format."""

UNMATCHED = "unmatched"
"""The route of requests that no route takes: their paths are without number."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# From a look at a file row to a long document.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REGISTRY = CollectorRegistry()
"""Everything that `page` shows. It is ours: the library's global one also holds what other
libraries put there."""
ProcessCollector(registry=REGISTRY)

_requests = Counter(
    "ocr_http_requests_total",
    "Requests that were answered; 499 where the client left first.",
    ("route", "method", "code"),
    registry=REGISTRY,
)
_seconds = Histogram(
    "ocr_http_request_duration_seconds",
    "Time from a request's headers to the end of its answer.",
    ("route",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
_upload_bytes = Counter("ocr_upload_bytes_total", "Bytes of uploads that came.", registry=REGISTRY)
_uploads_aborted = Counter(
    "ocr_upload_aborted_total",
    "Uploads that ended early and were not refused.",
    registry=REGISTRY,
)
_fetches_refused = Counter(
    "ocr_fetch_refused_total",
    "Document addresses that were not fetched.",
    ("reason",),
    registry=REGISTRY,
)
_rate_limited = Counter(
    "ocr_rate_limited_total", "Requests over a limit.", ("limit",), registry=REGISTRY
)
_build = Gauge("ocr_build_info", "1; its label says what runs.", ("version",), registry=REGISTRY)


def answered(route: str | None, method: str, code: int, seconds: float) -> None:
    """Count a request.

    Args:
        route: the template of the route, such as ``/v1/files/{file_id}``; None where no route
            took the request.
        method: the HTTP method; unusual ones are counted together.
        code: the HTTP status.
        seconds: from its headers to the end of its answer.
    """
    route = route or UNMATCHED
    _requests.labels(route, method if method in _METHODS else "other", str(code)).inc()
    _seconds.labels(route).observe(seconds)


def uploaded(size: int) -> None:
    """Count bytes of an upload; call it as they come."""
    _upload_bytes.inc(size)


def upload_aborted() -> None:
    """Count an upload that ended before its last byte, by the client or by a deadline."""
    _uploads_aborted.inc()


def fetch_refused(reason: str) -> None:
    """Count a document's address that was not fetched.

    Args:
        reason: one word of a small fixed set; never a part of the address.
    """
    _fetches_refused.labels(reason).inc()


def rate_limited(limit: str) -> None:
    """Count a request that was refused.

    By a limit of the organisation (``requests``, ``pages``, ``bytes``, ``uploads``, ``bodies``,
    ``documents``, ``answers``, ``org_requests``, ``org_pages``), or of all together
    (``all_uploads``, ``all_bodies``, ``all_documents``, ``all_answers``, ``all_requests``,
    ``all_pages``).
    """
    _rate_limited.labels(limit).inc()


def built(version: str) -> None:
    """Say which version runs."""
    _build.clear()
    _build.labels(version).set(1)


def page() -> bytes:
    """Return everything that this process has counted, in the Prometheus text format.

    Of several API processes each counts for itself, and a scrape reaches any one of them.
    """
    return generate_latest(REGISTRY)
