"""Cards that read a sample of the pages in the background: seen at their servers, nowhere else."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import httpx
import pytest

from model_registry.routing import Shadow
from ocr_api.pipeline.outcomes import similarity
from ocr_api.pipeline.shadows import is_sampled
from tests.e2e.reading import HURRIED, SMALL, Service, Standin, Tokens, pdf, serving, standin

PAGES = 6
LINE = re.compile(
    r'^(ocr_shadow_\w+)\{model="test/glm-hurried"(?:,outcome="(\w+)")?\} (\S+)$', re.MULTILINE
)


Engines = tuple[Standin, Standin]
Counts = dict[str, float]


@pytest.fixture(scope="module")
def both() -> Iterator[Engines]:
    # The answers take a while, as a model's do: a shadow that is not drawn by then is skipped.
    with standin("--mode", "fixed", "--delay", "1") as one, standin() as other:
        yield one, other


@pytest.fixture
def engines(both: Engines) -> Engines:
    """The target's server and the shadow's, without faults and without a past."""
    for engine in both:
        engine.fault()
    return both


@pytest.fixture(scope="module")
def service(both: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    one, other = both
    tmp_path = tmp_path_factory.mktemp("shadows")
    shadow = {"card": HURRIED, "urls": [f"{other.base}/v1"], "share": 1}
    target = {"card": SMALL, "urls": [f"{one.base}/v1"]}
    routes = tmp_path / "shadowed.yaml"
    table = {"default": "mix", "routes": {"mix": {"targets": [target], "shadow": [shadow]}}}
    routes.write_text(json.dumps(table))
    with serving(tmp_path, [], ROUTES=str(routes), ENGINE_URLS="{}") as service:
        yield service


def counts(service: Service) -> Counts:
    page = httpx.get(f"{service.recto.base}/metrics").text
    return {f"{name} {word}".strip(): float(value) for name, word, value in LINE.findall(page)}


def counted(service: Service, before: Counts, wanted: str, count: float) -> Counts:
    """Return what was counted of the shadow since, once it has come to this. It tells nobody."""
    end = time.monotonic() + 20
    while True:
        found = {name: value - before.get(name, 0) for name, value in counts(service).items()}
        if found.get(wanted) == count:
            return found
        assert time.monotonic() < end, found


pytestmark = pytest.mark.shared


def test_a_shadow_reads_what_is_answered_and_costs_nothing(
    service: Service, engines: Engines
) -> None:
    (one, other), before = engines, counts(service)
    answer = service.post(pdf("seen twice", PAGES), name="seen-twice")
    assert answer.status_code == 200
    assert answer.headers["x-recto-card"] == SMALL
    found = counted(service, before, "ocr_shadow_pages_total ok", PAGES)
    # The stand-ins say the same of the same picture.
    assert found["ocr_shadow_similarity_count"] == PAGES
    assert found["ocr_shadow_similarity_sum"] == PAGES
    assert {entry["model"] for entry in other.log()} == {HURRIED}
    names = [entry["headers"]["x-request-id"] for entry in other.log()]
    assert len(names) == PAGES
    assert all(name.endswith("-shadow") for name in names)
    row = service.usage("seen-twice")
    assert (row.pages, row.charged, row.wasted) == (PAGES, one.tokens(), Tokens())


def test_a_repeat_is_not_read_again_in_the_shadow(service: Service, engines: Engines) -> None:
    document, before = pdf("read once", PAGES), counts(service)
    assert service.post(document).status_code == 200
    counted(service, before, "ocr_shadow_pages_total ok", PAGES)
    assert service.post(document).status_code == 200
    assert len(engines[1].log()) == PAGES
    # Nor is one with a prompt of its own, to which the two would answer differently.
    assert service.post(document, prompt="What is the total?").status_code == 200
    assert len(engines[1].log()) == PAGES


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("do=http500", "failed"),
        ("do=loop,ignore_detection=1", "repetition"),
        ("do=empty-content", "empty"),
    ],
)
def test_what_goes_wrong_in_the_shadow_shows_in_the_metrics_only(
    service: Service, engines: Engines, fault: str, outcome: str
) -> None:
    engines[1].fault(fault)
    before = counts(service)
    answer = service.post(pdf(f"well: {outcome}", PAGES))
    assert [page["error"] for page in answer.json()["pages"]] == [None] * PAGES
    assert "warnings" not in answer.json() or not answer.json()["warnings"]
    found = counted(service, before, f"ocr_shadow_pages_total {outcome}", PAGES)
    assert not found.get("ocr_shadow_pages_total ok")


def test_a_deleted_file_is_read_no_more(service: Service, engines: Engines) -> None:
    """Not in the shadow either, and the server is told."""
    engines[1].fault("do=hang")
    file_id = service.upload(pdf("soon gone", PAGES))
    assert service.post(file_id).status_code == 200  # the shadow is waited for by nobody
    engines[1].until(lambda now: now["in_flight"] == PAGES)
    service.delete(file_id)
    assert engines[1].settled()["aborted"] == PAGES


def test_a_sample_is_as_large_as_its_share_and_the_same_at_every_try() -> None:
    for share in (0.01, 0.25, 1.0):
        shadow = Shadow(card="a/b", share=share)
        taken = [is_sampled(f"request {number}", 3, shadow) for number in range(20_000)]
        assert abs(sum(taken) / 20_000 - share) < 0.01
        assert taken == [is_sampled(f"request {number}", 3, shadow) for number in range(20_000)]


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("# A page\n\nof words", "of words a PAGE", 1.0),
        ("one two three four", "one two five six", 0.5),
        ("", "\n", 1.0),
        ("words", "", 0.0),
    ],
)
def test_similarity_counts_words(one: str, other: str, value: float) -> None:
    assert similarity(one, other) == value
