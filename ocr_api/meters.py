"""What this process counts of pages for Prometheus, on the registry of `files_api.kit.metrics`.

Every value of a label is a time series that is kept for ever. So a label is the id of a card, the
``host:port`` of a server that is configured, or one word of a small set; anything else is counted
as ``other``. No label names an organisation: what one did stands in the database. The names are
those that operators know from other services: base units, and ``_total`` for what only grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from files_api.kit.metrics import REGISTRY
from model_registry.registry import Routed

Outcome = Literal["ok", "failed", "reused", "cancelled"]
"""How a page ended: read, not read, taken from what was kept, or dropped with its request."""
Kind = Literal["charged", "wasted", "reused"]
"""Whose tokens: of answers that were used, of answers that were not, of pages read before."""
Direction = Literal["prompt", "completion"]
"""What went to the model, and what came from it."""
Stage = Literal["fetch", "render", "infer", "post", "total"]
"""Of a page: the document comes (once for all of its pages), the page is drawn, an engine answers
one question about it, the answer is parsed and the page assembled; and the page from its turn."""
Shadowed = Literal["ok", "failed", "empty", "repetition", "skipped"]
"""What came of a page at a shadow; skipped: there was too much to do."""
Reload = Literal["ok", "refused"]
"""What came of reading the routes again: taken, or wrong, so that the old ones are kept."""

LANES = ("interactive", "background")
"""As `ocr_api.request` names them. Each is shown, also while nobody waits in it: an alert on a
series that is not there is mute."""
OTHER = "other"
"""Stands for every word that is in no set."""
RETRY_REASONS = frozenset(
    {"engine_unavailable", "engine_busy", "engine_timeout", "ocr_failed", "loop", "length"}
)
"""Why a page was asked for again: codes of errors, or what was wrong with an answer."""
REFUSAL_REASONS = frozenset(
    {"org_requests", "org_pages", "all_requests", "all_pages", "no_server", "stopping"}
)
"""Which bound kept a request out: the organisation's own, everybody's, no server, or our end."""
DEATHS = frozenset({"killed", "time", "died", "idle", "worn", "replaced"})
"""How a child process ended: killed from outside, at a limit of time, by its own fault, while it
had nothing to do, after its number of tasks or with too much memory in use, or to make room for a
fresh one."""
FALLBACK_REASONS = frozenset({"errors", "empty", "repetition"})
"""Which rate of a target of a route passed its threshold."""

# From parsing an answer to the longest that a card allows.
_PAGE_SECONDS = (0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)

_pages = Counter("ocr_pages_total", "Pages that are done.", ("model", "outcome"), registry=REGISTRY)
_page_seconds = Histogram(
    "ocr_page_duration_seconds",
    "Time of the stages of a page, and of the whole from its turn (total).",
    ("model", "stage"),
    buckets=_PAGE_SECONDS,
    registry=REGISTRY,
)
_tokens = Counter(
    "ocr_tokens_total",
    "Tokens of models, as their servers count them.",
    ("model", "direction", "kind"),
    registry=REGISTRY,
)
_retries = Counter(
    "ocr_page_retries_total",
    "Further tries of pages.",
    ("model", "reason"),
    registry=REGISTRY,
)
_waiting = Gauge(
    "ocr_queue_pages_waiting", "Pages that wait for a turn.", ("lane", "model"), registry=REGISTRY
)
_oldest = Gauge(
    "ocr_queue_oldest_seconds",
    "How long the page has waited that waits longest for its turn.",
    ("lane",),
    registry=REGISTRY,
)
_working = Gauge("ocr_pages_working", "Pages that have a turn.", ("model",), registry=REGISTRY)
_in_flight = Gauge(
    "ocr_engine_requests_in_flight",
    "Requests that a server is answering.",
    ("model", "replica"),
    registry=REGISTRY,
)
_limit = Gauge(
    "ocr_engine_limit",
    "Requests that a server is given at a time.",
    ("model", "replica"),
    registry=REGISTRY,
)
_open = Gauge(
    "ocr_engine_circuit_open",
    "1 while a server is asked nothing because it failed.",
    ("model", "replica"),
    registry=REGISTRY,
)
_refused = Counter(
    "ocr_admission_refused_total",
    "OCR requests that were refused because there was enough to do.",
    ("reason",),
    registry=REGISTRY,
)
_restarts = Counter(
    "ocr_render_child_restarts_total",
    "Child processes that ended and left their place to another one.",
    ("reason",),
    registry=REGISTRY,
)
_route_pages = Counter(
    "ocr_route_pages_total",
    "Pages that a target of a route was to read.",
    ("route", "model", "outcome"),
    registry=REGISTRY,
)
_away = Gauge(
    "ocr_route_target_away",
    "1 while a target of a route gets nothing because it did badly.",
    ("route", "model"),
    registry=REGISTRY,
)
_fallbacks = Counter(
    "ocr_route_fallbacks_total",
    "Times that a target of a route was passed over from then on.",
    ("route", "model", "reason"),
    registry=REGISTRY,
)
_reloads = Counter(
    "ocr_routes_reloads_total",
    "Times that the file of routes was read again.",
    ("outcome",),
    registry=REGISTRY,
)
_wrong = Gauge(
    "ocr_routes_wrong",
    "1 while the file of routes is wrong, so that older routes are kept.",
    registry=REGISTRY,
)
_shadow_pages = Counter(
    "ocr_shadow_pages_total",
    "Pages that a shadow was to read, beside the target that answers.",
    ("model", "outcome"),
    registry=REGISTRY,
)
_similarity = Histogram(
    "ocr_shadow_similarity",
    "How much the text of a shadow is like that of the target that answered; 1 is the same.",
    ("model",),
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0),
    registry=REGISTRY,
)


def page(card: str, outcome: Outcome) -> None:
    """Count a page that is done.

    Args:
        card: the id of the card that was to read it.
        outcome: how it ended.
    """
    _pages.labels(card, outcome).inc()


def stage(name: Stage, card: str, seconds: float) -> None:
    """Note how long a stage of a page took; `ocr_api.stages` measures it."""
    _page_seconds.labels(card, name).observe(seconds)


def tokens(card: str, kind: Kind, direction: Direction, count: int) -> None:
    """Count tokens; what is not above 0 is not counted."""
    if count > 0:
        _tokens.labels(card, direction, kind).inc(count)


def retried(card: str, reason: str) -> None:
    """Count a page that is asked for once more, for one of `RETRY_REASONS`."""
    _retries.labels(card, _known(reason, RETRY_REASONS)).inc()


def queue(card: str, waiting: Mapping[str, int], working: int) -> None:
    """Show how many pages of a card wait for a turn now, by lane, and how many have one."""
    for lane in LANES:
        _waiting.labels(lane, card).set(waiting.get(lane, 0))
    _working.labels(card).set(working)


def oldest(seconds: Mapping[str, float]) -> None:
    """Show how long the page has waited that waits longest, by lane; 0 where none does."""
    for lane in LANES:
        _oldest.labels(lane).set(seconds.get(lane, 0.0))


def replica(card: str, server: str, in_flight: int, limit: int, is_open: bool) -> None:
    """Show how one server of a card stands now.

    Args:
        card: the id of the card.
        server: ``host:port`` of the server (`model_registry.routing.place`), empty where the
            engine is embedded; never its whole address, which may hold a password.
        in_flight: requests that it is answering.
        limit: the most that it is given at a time.
        is_open: its circuit is open: it is asked nothing.
    """
    _in_flight.labels(card, server).set(in_flight)
    _limit.labels(card, server).set(limit)
    _open.labels(card, server).set(int(is_open))


def replica_gone(card: str, server: str) -> None:
    """Show a server no more: it is not among the servers of its card any longer."""
    for gauge in (_in_flight, _limit, _open):
        with suppress(KeyError):
            gauge.remove(card, server)


def admission_refused(why: str) -> None:
    """Count an OCR request that was refused at once, for one of `REFUSAL_REASONS`."""
    _refused.labels(_known(why, REFUSAL_REASONS)).inc()


def child_restarted(reason: str) -> None:
    """Count a child process that ended and is to be replaced, for one of `DEATHS`."""
    _restarts.labels(_known(reason, DEATHS)).inc()


def route_pages(route: str, card: str, outcome: Routed, count: int = 1) -> None:
    """Count pages that a target of a route was to read.

    Args:
        route: the public name, as it stands in the file of routes; never what a caller sent.
        card: the id of the target's card.
        outcome: what came of them.
        count: how many.
    """
    _route_pages.labels(route, card, outcome).inc(count)


def target_away(route: str, card: str, away: bool) -> None:
    """Show whether a target of a route is passed over now, because it did badly."""
    _away.labels(route, card).set(int(away))


def fell_back(route: str, card: str, reason: str) -> None:
    """Count a target that is passed over from now on, for one of `FALLBACK_REASONS`."""
    _fallbacks.labels(route, card, _known(reason, FALLBACK_REASONS)).inc()


def routes_reloaded(outcome: Reload) -> None:
    """Count a reading of the file of routes while the service runs."""
    _reloads.labels(outcome).inc()


def routes_wrong(wrong: bool) -> None:
    """Show whether the file of routes, as it lies there, was refused."""
    _wrong.set(int(wrong))


def shadow_page(card: str, outcome: Shadowed) -> None:
    """Count a page that a shadow with this card was to read."""
    _shadow_pages.labels(card, outcome).inc()


def shadow_similarity(card: str, value: float) -> None:
    """Note how much a shadow's text is like the one that was answered, from 0 to 1."""
    _similarity.labels(card).observe(value)


def _known(word: str, words: frozenset[str]) -> str:
    return word if word in words else OTHER
