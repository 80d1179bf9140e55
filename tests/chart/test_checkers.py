"""The checkers themselves: each finds what it is for, so that finding nothing means something."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import custom, patches, rules
from tests.chart.fleet import CHART, Json
from tests.chart.net import Peer, allowed, answers
from tests.chart.pods import references, unrestricted

POD: Json = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "containers": [
        {
            "name": "web",
            "image": "web:1",
            "ports": [{"name": "http", "containerPort": 8000}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {}}],
}


def deployment(pod: Json) -> Json:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def changed(path: str, value: object) -> Json:
    """The pod with one thing changed; "containers.securityContext.x" is of its one container."""
    pod = copy.deepcopy(POD)
    *parents, last = path.split(".")
    at = pod
    for parent in parents:
        at = at[parent]
        at = at[0] if isinstance(at, list) else at
    if value is None:
        del at[last]
    else:
        at[last] = value
    return pod


def test_right_pod_passes() -> None:
    assert list(unrestricted(POD)) == []
    assert rules.problems(deployment(POD), None) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("hostNetwork", True, "hostNetwork"),
        ("automountServiceAccountToken", None, "a token of Kubernetes"),
        ("enableServiceLinks", True, "variables of all services"),
        ("volumes", [{"name": "tmp", "hostPath": {"path": "/"}}], "volume tmp"),
        ("securityContext.runAsNonRoot", None, "web: runAsNonRoot"),
        ("securityContext.runAsUser", 0, "web: runs as root"),
        ("securityContext.seccompProfile", None, "web: seccompProfile"),
        ("containers.securityContext.privileged", True, "web: privileged"),
        ("containers.securityContext.runAsNonRoot", False, "web: runAsNonRoot"),
        ("containers.securityContext.allowPrivilegeEscalation", None, "allowPrivilegeEscalation"),
        ("containers.securityContext.readOnlyRootFilesystem", False, "readOnlyRootFilesystem"),
        ("containers.securityContext.capabilities", {"drop": []}, "capabilities are not dropped"),
        ("containers.securityContext", None, "web: capabilities are not dropped"),
        ("containers.ports", [{"containerPort": 1, "hostPort": 1}], "web: hostPort"),
    ],
)
def test_unrestricted_pod_is_found(path: str, value: object, said: str) -> None:
    assert said in "; ".join(unrestricted(changed(path, value)))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("restartPolicy", "Never", "restartPolicy"),
        ("volumes", [], "mounts tmp, which is no volume"),
        ("volumes", [{"name": "tmp"}, {"name": "tmp"}], "volumes: tmp twice"),
        ("containers.name", "Web", "containers: 'Web'"),
        ("containers.image", "", "no image"),
        ("containers.ports", [{"name": "a-name-of-17-chars", "containerPort": 1}], "port name"),
        ("containers.env", [{"name": "A"}, {"name": "A"}], "A twice"),
        ("containers.env", [{"name": "A", "value": "1", "valueFrom": {"x": 1}}], "and a source"),
        ("containers.resources", {"requests": {"cpu": 2}, "limits": {"cpu": 1}}, "its limit"),
        ("containers.resources", {"requests": {"nvidia.com/gpu": 1}}, "nvidia.com/gpu must"),
        ("containers.resources", {"requests": {"memory": "2 GB"}}, "is no quantity"),
        ("containers.livenessProbe", {"successThreshold": 2}, "successThreshold"),
    ],
)  # fmt: skip
def test_what_a_server_refuses_is_found(path: str, value: object, said: str) -> None:
    assert said in "; ".join(rules.problems(deployment(changed(path, value)), None))


def test_fields_that_cannot_change_are_found() -> None:
    old = deployment(POD)
    new = copy.deepcopy(old)
    new["spec"]["selector"]["matchLabels"] = {"app": "other"}
    new["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    assert rules.problems(new, old) == ["spec.selector: field is immutable"]
    new = copy.deepcopy(old) | {"kind": "StatefulSet"}
    new["spec"]["serviceName"] = "other"
    assert rules.problems(new, old) == ["spec: forbidden to change serviceName of a StatefulSet"]
    new = copy.deepcopy(old)
    new["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}
    assert rules.problems(new, old) == ["spec.strategy: maxSurge and maxUnavailable are both 0"]


def test_quantities_are_numbers() -> None:
    assert rules.quantity("1Gi") == 2**30
    assert rules.quantity("500m") * 2 == rules.quantity(1)


def test_references_of_a_pod_are_all_found() -> None:
    pod = changed("volumes", [{"name": "tmp", "secret": {"secretName": "a"}}])
    pod["containers"][0]["envFrom"] = [{"configMapRef": {"name": "b"}}]
    pod["containers"][0]["env"] = [
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "x"}}},
        {
            "name": "Y",
            "valueFrom": {"configMapKeyRef": {"name": "d", "key": "x", "optional": True}},
        },
    ]
    assert set(references(pod)) == {("Secret", "a"), ("ConfigMap", "b"), ("Secret", "c")}


def test_policies_are_read_as_kubernetes_reads_them() -> None:
    block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
    beside = {"podSelector": {"matchLabels": {"app": "ocr"}}}
    spec = {
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [beside], "ports": [{"port": 8000, "protocol": "TCP"}]}],
        "egress": [{"to": [block]}],
    }
    rule, web, ocr = [{"spec": spec}], {"app": "web"}, {"app": "ocr"}
    assert allowed(rule, "ingress", web, Peer(ocr), 8000)
    assert not allowed(rule, "ingress", web, Peer(ocr), 8001)
    assert not allowed(rule, "ingress", web, Peer(ocr, "elsewhere"), 8000)
    assert not allowed(rule, "ingress", web, Peer(web), 8000)
    assert not allowed(rule, "ingress", web, Peer(address="1.2.3.4"), 8000)
    assert allowed(rule, "ingress", ocr, Peer(web), 22)  # No policy selects it.
    assert allowed(rule, "egress", web, Peer(address="1.2.3.4"), 443)
    assert not allowed(rule, "egress", web, Peer(address="10.2.3.4"), 443)
    assert not allowed(rule, "egress", web, Peer(ocr), 8000)


def test_first_rule_that_fits_answers() -> None:
    rule = [("regex", "/v1/files/[^/]+/ocr$", "ocr"), ("regex", "/v1/files", "files")]
    assert answers(rule, "/v1/files/x/ocr") == "ocr"
    assert answers(rule, "/v1/files/x/ocr2") == "files"
    assert answers([("prefix", "/v1/files", "files")], "/v1/files2") == ""
    assert answers([("whole", "/v1/files.*", "files")], "/a/v1/files") == ""


def test_strategic_patch_goes_by_names() -> None:
    old: Json = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"]}
    patch = {
        "$setElementOrder/env": [{"name": "C"}, {"name": "A"}],
        "env": [{"name": "C", "value": "3"}, {"name": "B", "$patch": "delete"}],
        "args": ["y"],
    }
    assert patches.strategic(old, patch) == {
        "env": [{"name": "C", "value": "3"}, {"name": "A", "value": "1"}],
        "args": ["y"],
    }
    assert patches.merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}


SLOW = {"scaleDown": {"stabilizationWindowSeconds": 7200}}


def scaled(trigger: Json | None = None, **more: object) -> Json:
    """A ScaledObject with one trigger, and what is added to either."""
    metadata = {"serverAddress": "a", "query": "q", "threshold": "5", **(trigger or {})}
    triggers = [{"type": "prometheus", "metadata": metadata}]
    return {"scaleTargetRef": {"name": "x"}, "triggers": triggers, **more}


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("ScaledObject", {"scaleTargetRef": {"name": "x"}, "triggers": []}, "spec.triggers"),
        (
            "ScaledObject",
            {"scaleTargetRef": {"name": "x"}, "triggers": [{"type": "prometheus", "metadata": {}}]},
            "no query, serverAddress, threshold",
        ),
        (
            "ScaledObject",
            {
                "scaleTargetRef": {"name": "x"},
                "triggers": [{"type": "cpu", "metadata": {"value": 5}}],
            },
            "spec.triggers.0.metadata.value",
        ),
        ("ScaledObject", scaled(minReplicaCount=5, maxReplicaCount=2), "more than maxReplicaCount"),
        ("ScaledObject", scaled({"ignoreNulValues": "true"}), "nothing reads ignoreNulValues"),
        (
            "ScaledObject",
            scaled(fallback={"failureThreshold": 1, "replicas": 1}),
            "a fallback needs AverageValue",
        ),
        (
            "ScaledObject",
            scaled(advanced={"horizontalPodAutoscalerConfig": {"behavior": SLOW}}),
            "stabilizationWindowSeconds",
        ),
        ("PrometheusRule", {"groups": [{"name": "x", "rules": [{"alert": "a"}]}]}, "'expr'"),
        (
            "PrometheusRule",
            {"groups": [{"name": "x", "rules": [{"record": "a", "expr": "1", "for": "5m"}]}]},
            "dependency of 'for'",
        ),
        ("HTTPRoute", {"rules": [{"timeouts": {"request": "100000s"}}]}, "timeouts.request"),
        (
            "HTTPRoute",
            {"rules": [{"timeouts": {"request": "10s", "backendRequest": "1m"}}]},
            "longer than request",
        ),
        (
            "HTTPRoute",
            {"rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "(/a"}}]}]},
            "unterminated",
        ),
        ("HTTPRoute", {"rules": [{"backendRefs": [{"name": "x"}]}]}, "'port'"),
        ("HTTPRoute", {"rules": [{"timeouts": {"request": "1 hour"}}]}, "timeouts.request"),
        ("Gateway", {}, "has no Gateway"),
    ],
)
def test_wrong_custom_resource_is_found(kind: str, spec: Json, said: str) -> None:
    item = {"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    assert said in "; ".join(custom.problems(item))


def test_schema_of_the_values_knows_every_key_and_no_other() -> None:
    """additionalProperties is false wherever properties are named."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    assert list(_open(schema, "")) == []


def _open(node: object, path: str) -> Iterator[str]:
    """Where a schema names properties and lets others through."""
    if isinstance(node, dict):
        named = "properties" in node and node.get("type") == "object"
        if named and node.get("additionalProperties") is not False:
            yield path
        for key, value in node.items():
            yield from _open(value, f"{path}/{key}")
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _open(value, f"{path}/{at}")
