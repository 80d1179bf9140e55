"""What is counted, under which names and labels."""

from __future__ import annotations

import re
import timeit

from files_api.kit import metrics


def value(name: str, **labels: str) -> float:
    """Return what the page says of one time series; 0 where it says nothing."""
    wanted = ",".join(f'{key}="{text}"' for key, text in sorted(labels.items()))
    start = f"{name}{{{wanted}}} " if labels else f"{name} "
    lines = metrics.page().decode().splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0.0)


def requests(route: str, method: str, code: str) -> float:
    return value("ocr_http_requests_total", route=route, method=method, code=code)


def test_requests_are_counted_by_route_method_and_code() -> None:
    before = requests("/v1/x/{id}", "GET", "200"), requests("unmatched", "other", "404")
    seconds = value("ocr_http_request_duration_seconds_sum", route="/v1/x/{id}")
    metrics.answered("/v1/x/{id}", "GET", 200, 0.25)
    metrics.answered(None, "PROPFIND", 404, 0.5)
    after = requests("/v1/x/{id}", "GET", "200"), requests("unmatched", "other", "404")
    assert after == (before[0] + 1, before[1] + 1)
    now = value("ocr_http_request_duration_seconds_sum", route="/v1/x/{id}")
    assert now == seconds + 0.25
    fitting = value("ocr_http_request_duration_seconds_bucket", route="/v1/x/{id}", le="0.25")
    assert fitting >= 1


def test_refused_fetches_are_counted_by_reason() -> None:
    before = value("ocr_fetch_refused_total", reason="private")
    metrics.fetch_refused("private")
    assert value("ocr_fetch_refused_total", reason="private") == before + 1


def test_one_build_is_shown() -> None:
    metrics.built("1.2.3")
    metrics.built("1.2.4")
    text = metrics.page().decode()
    assert 'ocr_build_info{version="1.2.4"} 1.0' in text
    assert "1.2.3" not in text


def test_the_page_shows_the_process_and_no_organisation() -> None:
    labels = set(re.findall(r'[{,]([a-z_]+)="', metrics.page().decode()))
    assert value("process_open_fds") > 2
    assert {"route", "method", "code"} <= labels
    assert not {name for name in labels if "org" in name or "key" in name}
    assert metrics.MEDIA_TYPE.startswith("text/plain; version=")


def test_counting_a_request_costs_next_to_nothing() -> None:
    """Under 50 µs; about 7 µs where it was measured."""
    one = min(
        timeit.repeat(lambda: metrics.answered("/v1/x", "GET", 200, 0.1), number=200, repeat=5)
    )
    assert one / 200 < 50e-6
