"""Who reaches whom, and who answers which path."""

from __future__ import annotations

import ipaddress

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import fleet
from tests.chart.cluster import Cluster
from tests.chart.door import serving
from tests.chart.fleet import DISTRIBUTED, FILES, Json, life, named
from tests.chart.net import Peer, allowed, answers, gateway_rules, ingress_rules
from tests.chart.pods import COMPONENT, Pod, pods
from tests.chart.release import Failed, Release
from tests.chart.schemas import USUAL

BLOCKS = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
)
INTERNET = Peer(address="93.184.215.14")
STRANGER = Peer({"app": "stranger"})

files = pytest.mark.parametrize("file", FILES)
distributed = pytest.mark.parametrize("file", DISTRIBUTED)


def policies(file: str) -> list[Json]:
    return list(named(life(file, USUAL).objects, "NetworkPolicy").values())


def of(file: str, component: str) -> list[Pod]:
    return [pod for pod in pods(life(file, USUAL).everything) if pod.component == component]


@files
def test_there_are_policies_for_every_pod(file: str) -> None:
    for pod in pods(life(file, USUAL).everything):
        if pod.component == "migrate":
            continue  # At the first install it runs before any policy exists.
        assert not allowed(policies(file), "egress", pod.labels, INTERNET, 22), pod.owner
        assert not allowed(policies(file), "ingress", pod.labels, STRANGER, 22), pod.owner


@distributed
def test_only_the_ocr_api_reaches_the_models(file: str) -> None:
    rules, everyone = policies(file), pods(life(file, USUAL).everything)
    for model in of(file, "vllm"):
        for pod in everyone:
            may = allowed(rules, "ingress", model.labels, Peer(pod.labels), 8000)
            assert may is (pod.component == "ocr"), pod.owner
        for peer in (STRANGER, Peer(STRANGER.labels, "elsewhere"), INTERNET):
            assert not allowed(rules, "ingress", model.labels, peer, 8000)
        other = Peer({COMPONENT: "ocr", "app.kubernetes.io/instance": "another"})
        assert not allowed(rules, "ingress", model.labels, other, 8000)


@distributed
def test_the_ocr_api_does_reach_the_models(file: str) -> None:
    rules = policies(file)
    [ocr] = of(file, "ocr")
    for model in of(file, "vllm"):
        assert allowed(rules, "egress", ocr.labels, Peer(model.labels), 8000)
        assert allowed(rules, "ingress", model.labels, Peer(ocr.labels), 8000)


@distributed
def test_models_leave_the_cluster_for_their_weights_alone(file: str) -> None:
    rules = policies(file)
    values = fleet.whole(file)
    for model in of(file, "vllm"):
        stem = model.labels["recto.dev/model"]
        own = values["vllm"] | (values["models"][stem] or {})
        fetches = not (own["download"].get("enabled") or own.get("offline"))
        hub = values["networkPolicy"]["hub"]["to"]
        outside = Peer(address="10.50.0.1") if hub else INTERNET
        assert allowed(rules, "egress", model.labels, outside, 443) is fetches, stem
        for peer in (Peer(address="10.60.0.1"), STRANGER, Peer(of(file, "ocr")[0].labels)):
            assert not allowed(rules, "egress", model.labels, peer, 443), stem
            assert not allowed(rules, "egress", model.labels, peer, 8000), stem
    for job in of(file, "weights"):
        hub = values["networkPolicy"]["hub"]["to"]
        outside = Peer(address="10.50.0.1") if hub else INTERNET
        assert allowed(rules, "egress", job.labels, outside, 443)


@files
def test_every_pod_finds_names(file: str) -> None:
    dns = Peer({"k8s-app": "kube-dns"}, "kube-system")
    for pod in pods(life(file, USUAL).everything):
        for protocol in ("TCP", "UDP"):
            assert allowed(policies(file), "egress", pod.labels, dns, 53, protocol), pod.owner


@files
def test_documents_are_fetched_from_public_addresses_alone(file: str) -> None:
    rules = policies(file)
    for pod in of(file, "ocr") + of(file, "embedded"):
        for port in (80, 443):
            assert allowed(rules, "egress", pod.labels, INTERNET, port)
        for block in BLOCKS:
            address = str(ipaddress.ip_network(block).broadcast_address - 7)
            assert not allowed(rules, "egress", pod.labels, Peer(address=address), 80), block
            assert not allowed(rules, "egress", pod.labels, Peer(address=address), 443), block
    for policy in rules:
        for rule in policy["spec"].get("egress") or []:
            for peer in rule.get("to", []):
                block = peer.get("ipBlock", {})
                if block.get("cidr") == "0.0.0.0/0":
                    assert set(BLOCKS) <= set(block["except"]), policy["metadata"]["name"]
                assert block.get("cidr") != "::/0"


@distributed
def test_files_api_reaches_its_stores_and_no_more(file: str) -> None:
    rules = policies(file)
    [pod] = of(file, "files")
    assert not allowed(rules, "egress", pod.labels, INTERNET, 443)
    assert not allowed(rules, "egress", pod.labels, Peer(of(file, "vllm")[0].labels), 8000)


@files
def test_clients_reach_the_api(file: str) -> None:
    client = Peer({"app.kubernetes.io/name": "ingress-nginx"}, "ingress-nginx")
    for component in ("embedded", "files", "ocr"):
        for pod in of(file, component):
            assert allowed(policies(file), "ingress", pod.labels, client, 8000), pod.owner


PATHS = [
    ("/v1/files", "files"),
    ("/v1/files/", "files"),
    ("/v1/files/3f2b/content", "files"),
    ("/v1/files/3f2b", "files"),
    ("/v1/files/3f2b/url", "files"),
    ("/v1/files/ocr", "files"),
    ("/v1/files/3f2b/ocr/content", "files"),
    ("/v1/files/3f2b/ocr2", "files"),
    ("/v1/uploads", "files"),
    ("/v1/uploads/3f2b/parts", "files"),
    ("/v1/files/3f2b/ocr", "ocr"),
    # Of clients whose base URL ends in /v1: the API takes these for the same.
    ("/v1/v1/files", "files"),
    ("/v1/v1/files/3f2b/content", "files"),
    ("/v1/v1/files/3f2b/ocr/content", "files"),
    ("/v1/v1/uploads", "files"),
    ("/v1/v1/uploads/3f2b/parts", "files"),
    ("/v1/v1/files/3f2b/ocr", "ocr"),
    ("/v1/v1/ocr", "ocr"),
    ("/v1/v1/chat/completions", "ocr"),
    ("/v1/ocr", "ocr"),
    ("/v1/models", "ocr"),
    ("/v1/usage", "ocr"),
    ("/v1/chat/completions", "ocr"),
    ("/metrics", ""),
    ("/admin", ""),
]
"""A file's pages are read by the OCR API, though the path is one of files."""


def _service(file: str, component: str) -> str:
    name = fleet.fullname(file)
    return "" if not component else f"{name}-{component}"


@distributed
@pytest.mark.parametrize(("path", "component"), PATHS)
def test_ingress_sends_paths_to_their_api(file: str, path: str, component: str) -> None:
    ingresses = list(named(life(file, USUAL).objects, "Ingress").values())
    if ingresses:
        assert answers(ingress_rules(ingresses), path) == _service(file, component)
    else:
        assert not fleet.whole(file)["ingress"]["enabled"]


@pytest.mark.parametrize(("path", "component"), PATHS)
def test_gateway_sends_paths_to_their_api(path: str, component: str) -> None:
    """Whichever of two rules for a path a gateway tries first."""
    file = fleet.EVERYTHING
    [route] = named(life(file, USUAL).objects, "HTTPRoute").values()
    for rules in gateway_rules(route):
        assert answers(rules, path) == _service(file, component)


def test_routing_rules_lead_to_services_that_exist() -> None:
    objects = life(fleet.EVERYTHING, USUAL).objects
    services = named(objects, "Service")
    rules = ingress_rules(list(named(objects, "Ingress").values()))
    [route] = named(objects, "HTTPRoute").values()
    for _, _, service in rules + next(gateway_rules(route)):
        assert service in services


def test_bodies_and_long_answers_fit_through_the_ingress() -> None:
    """512 MiB, 8 GiB for uploads, and an hour."""
    for item in named(life(fleet.EVERYTHING, USUAL).objects, "Ingress").values():
        notes = item["metadata"]["annotations"]
        prefix = "nginx.ingress.kubernetes.io/"
        paths = [p["path"] for p in item["spec"]["rules"][0]["http"]["paths"]]
        expected = "8g" if "/v1/uploads" in paths else "512m"
        assert notes[prefix + "proxy-body-size"] == expected
        assert notes[prefix + "proxy-read-timeout"] == "3600"
        assert notes[prefix + "proxy-send-timeout"] == "3600"
        assert notes[prefix + "proxy-request-buffering"] == "off"
        assert notes[prefix + "proxy-buffering"] == "off"


def test_long_answers_fit_through_the_gateway() -> None:
    [route] = named(life(fleet.EVERYTHING, USUAL).objects, "HTTPRoute").values()
    assert {rule["timeouts"]["request"] for rule in route["spec"]["rules"]} == {"3600s"}


def test_gateway_takes_as_many_paths_as_it_has_rules_for() -> None:
    """An HTTPRoute has 16 rules at most, which the API server checks only at the install."""
    paths = [f"/v1/{number}" for number in range(11)]
    gateway = {"httpRoute__enabled": True, "httpRoute__parentRefs": [{"name": "public"}]}
    with serving(Cluster(USUAL)) as cluster:
        release = Release(cluster, fleet.CHART)
        with pytest.raises(Failed, match=r"httpRoute.paths.*maxItems"):
            release.install(fleet.own(fleet.ONE_GPU, httpRoute__paths=paths, **gateway))
        assert cluster.log == []
        release.install(fleet.own(fleet.ONE_GPU, httpRoute__paths=paths[:10], **gateway))
        [route] = named(cluster.all(), "HTTPRoute").values()
    assert len(route["spec"]["rules"]) == 16
