"""R9: what the OpenAPI document says is what the service does, as schemathesis tries it.

Two passes: a run with all checks spends its examples on small differences and stops where a
server error would have been found.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import StopReason, events, from_schema
from starlette.types import ASGIApp

from ocr_api import app
from ocr_api.settings import Settings
from tests.fuzz.service import echo_only

SEED = 20_261_121
LONG = bool(os.environ.get("RECTO_SOAK"))
CONFORMANCE = (
    *("status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    "response_headers_conformance",
)


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> ASGIApp:
    """The application; schemathesis runs its lifespan, and ends it with the test."""
    return app.create(echo_only(settings, tmp_path))


def config_of(checks: Mapping[str, bool], examples: int) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "continue-on-failure": True,
            "base-url": "http://127.0.0.1:8000",  # without keys, no other host is served
            "generation": {
                "max-examples": examples,
                "deterministic": True,
                "no-shrink": True,
                "database": "none",
            },
            "checks": {name: {"enabled": enabled} for name, enabled in checks.items()},
        }
    )


def failures_of(
    service: ASGIApp, config: SchemathesisConfig
) -> tuple[list[str], Counter[tuple[str, int]]]:
    """Run every phase over every operation; return what failed, and the statuses of each.

    Raises:
        AssertionError: the run itself broke.
    """
    schema = schemathesis.openapi.from_asgi("/openapi.json", service, config=config)
    found: dict[str, str] = {}
    statuses: Counter[tuple[str, int]] = Counter()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            for interaction in event.recorder.interactions.values():
                assert interaction.response
                statuses[event.recorder.label, interaction.response.status_code] += 1
            found |= dict(_failures_in(event.recorder))
        assert not isinstance(event, events.FatalError), event.exception
        assert not isinstance(event, events.NonFatalError), f"{event.label}: {event.value!r}"
        if isinstance(event, events.EngineFinished):
            assert event.stop_reason is StopReason.COMPLETED
            found |= {repr(failure): "" for failure in event.failures}
    return [f"{key}\n{text}" for key, text in sorted(found.items())], statuses


def _failures_in(recorder: Any) -> Iterator[tuple[str, str]]:
    for case_id, checks in recorder.checks.items():
        for node in checks:
            if node.failure_info is not None:
                failure = node.failure_info.failure
                case = recorder.cases[case_id].value
                key = f"{failure.operation}: {failure.title}: {failure.message[:300]}"
                yield key, case.as_curl_command()[:1000]


ALL_CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance", "positive_data_acceptance"),
    *("negative_data_rejection", "use_after_free", "ensure_resource_availability"),
    *("missing_required_header", "ignored_auth", "unsupported_method", "allow_header_conformance"),
    "object_level_authorization",
)


def only(*wanted: str) -> dict[str, bool]:
    return {name: name in wanted for name in ALL_CHECKS}


def check_reach(statuses: Counter[tuple[str, int]]) -> None:
    """Check that the requests came past the first door: a run of refusals proves nothing."""
    labels = {label for label, _ in statuses}
    assert len(labels) >= 17
    assert statuses.total() >= 1000
    for label in ("GET /v1/files", "POST /v1/uploads", "GET /v1/models", "GET /readyz"):
        assert statuses[label, 200] > 0
    assert sum(count for (_, status), count in statuses.items() if status == 403) < 50


def test_r9_no_documented_operation_meets_a_server_error(
    service: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(only("not_a_server_error"), 500 if LONG else 60)
    failures, statuses = failures_of(service, config)
    assert failures == [], "\n".join(failures)
    assert [record for record in caplog.records if record.getMessage() == "unhandled"] == []
    check_reach(statuses)


def test_r9_answers_are_the_documented_ones(service: ASGIApp) -> None:
    failures, statuses = failures_of(service, config_of(only(*CONFORMANCE), 300 if LONG else 25))
    assert failures == [], "\n".join(failures)
    check_reach(statuses)
