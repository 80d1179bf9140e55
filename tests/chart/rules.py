"""What a real API server refuses though the schema allows it, for the kinds that our chart makes.

After Kubernetes' pkg/apis/*/validation, as far as a chart is likely to go wrong: names, selectors,
volumes and their mounts, limits, strategies, fields that cannot change.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

Json = dict[str, Any]

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LONG_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
FACTORS = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "P": 10**15, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50
}  # fmt: skip

LARGEST = 1024 * 1024
"""Bytes of data in a ConfigMap or Secret; Helm keeps a release, templates and all, in a Secret."""

WORKLOADS = ("DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet")


def quantity(text: object) -> Decimal:
    """A quantity as a number: "500m" is 0.5, "1Gi" is 2**30.

    Raises:
        ValueError: no quantity.
    """
    match = QUANTITY.fullmatch(str(text))
    if not match:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(match[1]) * FACTORS[match[2] or ""]


def containers(pod: Json) -> list[Json]:
    """A pod's containers, those that run first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def problems(item: Json, old: Json | None) -> list[str]:
    """What is wrong with an object that its schema takes; `old` is what it replaces."""
    found = [*_names(item)]
    if item["kind"] in WORKLOADS:
        found += _workload(item)
        found += _pod(item["spec"]["template"]["spec"])
    check = {
        "ConfigMap": _size,
        "Deployment": _strategy,
        "HorizontalPodAutoscaler": _scaler,
        "Job": _job,
        "NetworkPolicy": _policy,
        "PodDisruptionBudget": _budget,
        "Secret": _size,
        "Service": _service,
    }.get(item["kind"])
    if check:
        found += check(item)
    if old:
        found += _fixed(item, old)
    return found


def _names(item: Json) -> Iterator[str]:
    metadata = item["metadata"]
    pattern = SERVICE_NAME if item["kind"] == "Service" else LONG_NAME
    if not pattern.fullmatch(metadata["name"]):
        yield f"metadata.name: {metadata['name']!r}"
    for key, value in metadata.get("labels", {}).items():
        if not LABEL_VALUE.fullmatch(value) or len(key.rpartition("/")[2]) > 63:
            yield f"metadata.labels.{key}: {value!r}"


def _workload(item: Json) -> Iterator[str]:
    spec = item["spec"]
    labels = spec["template"].get("metadata", {}).get("labels", {})
    selector = spec.get("selector", {}).get("matchLabels", {})
    if item["kind"] != "Job" and not selector:
        yield "spec.selector: selects everything"
    if not selector.items() <= labels.items():
        yield "spec.selector: does not match the labels of the pods"
    for key, value in labels.items():
        if not LABEL_VALUE.fullmatch(value):
            yield f"spec.template.metadata.labels.{key}: {value!r}"
    policy = spec["template"]["spec"].get("restartPolicy", "Always")
    if (policy == "Always") is (item["kind"] == "Job"):
        yield f"spec.template.spec.restartPolicy: {policy}"
    claims = {c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])}
    volumes = {v["name"] for v in spec["template"]["spec"].get("volumes", [])} | claims
    for container in containers(spec["template"]["spec"]):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']}: mounts {mount['name']}, which is no volume"


def _pod(pod: Json) -> Iterator[str]:
    yield from _twice("containers", [c["name"] for c in containers(pod)])
    yield from _twice("volumes", [v["name"] for v in pod.get("volumes", [])])
    for container in containers(pod):
        name = container["name"]
        if not LABEL.fullmatch(name):
            yield f"containers: {name!r}"
        if not container.get("image"):
            yield f"{name}: no image"
        yield from _twice(name, [m["mountPath"] for m in container.get("volumeMounts", [])])
        yield from _twice(name, [e["name"] for e in container.get("env", [])])
        yield from _ports(name, container.get("ports", []))
        yield from _resources(name, container.get("resources", {}))
        for env in container.get("env", []):
            if env.get("value") and env.get("valueFrom"):
                yield f"{name}: {env['name']} has a value and a source"
        for probe in ("livenessProbe", "startupProbe"):
            if container.get(probe, {}).get("successThreshold", 1) != 1:
                yield f"{name}: {probe}.successThreshold must be 1"


def _twice(where: str, names: list[str]) -> list[str]:
    return [f"{where}: {name} twice" for name in sorted({n for n in names if names.count(n) > 1})]


def _ports(name: str, ports: list[Json]) -> list[str]:
    names = [port["name"] for port in ports if "name" in port]
    wrong = [f"{name}: port name {n!r}" for n in names if not PORT_NAME.fullmatch(n)]
    return wrong + _twice(f"{name}: ports", names)


def _resources(name: str, resources: Json) -> Iterator[str]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for what, amount in [*limits.items(), *requests.items()]:
        try:
            quantity(amount)
        except ValueError as wrong:
            yield f"{name}: resources of {what}: {wrong}"
            return
    for what, amount in requests.items():
        if what in limits and quantity(amount) > quantity(limits[what]):
            yield f"{name}: asks for more {what} than its limit"
        if "/" in what and quantity(limits.get(what, 0)) != quantity(amount):
            yield f"{name}: {what} must have a limit, the same as the request"


def _strategy(item: Json) -> Iterator[str]:
    strategy = item["spec"].get("strategy", {})
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling:
        yield "spec.strategy: Recreate takes no rollingUpdate"
    if rolling and all(rolling.get(k, 1) in (0, "0", "0%") for k in ("maxSurge", "maxUnavailable")):
        yield "spec.strategy: maxSurge and maxUnavailable are both 0"


def _job(item: Json) -> Iterator[str]:
    if len(item["metadata"]["name"]) > 63:
        yield "metadata.name: a Job's name is a label of its pods: 63 characters"


def _size(item: Json) -> Iterator[str]:
    data = [*item.get("data", {}).values(), *item.get("binaryData", {}).values()]
    if sum(len(value.encode()) for value in data) > LARGEST:
        yield f"data: more than {LARGEST} bytes"


def _scaler(item: Json) -> Iterator[str]:
    spec = item["spec"]
    if spec.get("minReplicas", 1) > spec["maxReplicas"]:
        yield "spec.minReplicas: more than maxReplicas"


def _budget(item: Json) -> Iterator[str]:
    if ("minAvailable" in item["spec"]) and ("maxUnavailable" in item["spec"]):
        yield "spec: minAvailable and maxUnavailable exclude each other"


def _service(item: Json) -> Iterator[str]:
    ports = item["spec"].get("ports", [])
    yield from _ports("spec", ports)
    if len(ports) > 1 and not all("name" in port for port in ports):
        yield "spec.ports: several ports need names"
    if not ports and item["spec"].get("clusterIP") != "None":
        yield "spec.ports: none"


def _policy(item: Json) -> Iterator[str]:
    spec = item["spec"]
    for way, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(way) or []:
            for peer in rule.get(peers) or []:
                yield from _peer(peer)


def _peer(peer: Json) -> Iterator[str]:
    if "ipBlock" not in peer:
        return
    if len(peer) > 1:
        yield "a peer with an ipBlock takes no selectors"
    whole = ipaddress.ip_network(peer["ipBlock"]["cidr"])
    for part in peer["ipBlock"].get("except", []):
        inside = ipaddress.ip_network(part)
        if inside.version != whole.version or not inside.subnet_of(whole) or inside == whole:  # type: ignore[arg-type]
            yield f"{part} is not inside {whole}"


MAY_CHANGE = {
    "replicas", "ordinals", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
}  # fmt: skip
"""Fields of a StatefulSet's spec that an update may touch."""


def _fixed(item: Json, old: Json) -> Iterator[str]:
    new, was = item.get("spec", {}), old.get("spec", {})
    kind = item["kind"]
    if kind in ("Deployment", "DaemonSet") and new["selector"] != was["selector"]:
        yield "spec.selector: field is immutable"
    if kind == "Job" and new["template"] != was["template"]:
        yield "spec.template: field is immutable"
    if kind == "StatefulSet":
        changed = {k for k in new.keys() | was.keys() if new.get(k) != was.get(k)} - MAY_CHANGE
        if changed:
            yield f"spec: forbidden to change {', '.join(sorted(changed))} of a StatefulSet"
    if kind == "PersistentVolumeClaim":
        changed = {k for k in new.keys() | was.keys() if new.get(k) != was.get(k)} - {"resources"}
        if changed:
            yield f"spec: forbidden to change {', '.join(sorted(changed))} of a claim"
