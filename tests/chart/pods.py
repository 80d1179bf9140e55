"""Questions that tests ask of pods: which there are, what they use, how far they are locked in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.chart.rules import WORKLOADS, containers

Json = dict[str, Any]

COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Pod:
    """The pods of one workload."""

    owner: str
    kind: str
    labels: Json
    spec: Json

    @property
    def component(self) -> str:
        """embedded, files, ocr, migrate, vllm or weights."""
        return str(self.labels.get(COMPONENT, ""))

    @property
    def lasting(self) -> bool:
        """Whether it runs until it is told to end."""
        return self.kind != "Job"


def pods(objects: list[Json]) -> list[Pod]:
    """The pods of every workload."""
    found = []
    for item in objects:
        if item["kind"] in WORKLOADS:
            template = item["spec"]["template"]
            labels = template.get("metadata", {}).get("labels", {})
            name = item["metadata"]["name"]
            found.append(Pod(name, item["kind"], labels, template["spec"]))
    return found


def matches(selector: Json, labels: Json) -> bool:
    """Whether a selector means an object with these labels.

    Raises:
        AssertionError: an operator that no chart of ours uses.
    """
    for term in selector.get("matchExpressions", []):
        value, operator = labels.get(term["key"]), term["operator"]
        if operator == "In":
            right = value in term["values"]
        elif operator == "NotIn":
            right = value not in term["values"]
        else:
            assert operator in ("Exists", "DoesNotExist"), operator
            right = (term["key"] in labels) is (operator == "Exists")
        if not right:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Sources of volumes that the profile "restricted" allows."""


def unrestricted(spec: Json) -> Iterator[str]:
    """What a pod has that the profile "restricted" of the Pod Security Standards forbids.

    After kubernetes.io/docs/concepts/security/pod-security-standards, and the house's own: no
    token of Kubernetes, and a root that cannot be written to.
    """
    pod = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", []):
        if not volume.keys() - {"name"} <= VOLUMES:
            yield f"volume {volume['name']}"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token of Kubernetes"
    if spec.get("enableServiceLinks") is not False:
        yield "variables of all services"
    if pod.get("sysctls"):
        yield "sysctls"
    for container in containers(spec):
        for wrong in _unlocked(container, pod):
            yield f"{container['name']}: {wrong}"


def _unlocked(container: Json, pod: Json) -> list[str]:
    own = container.get("securityContext", {})
    both = pod | own
    capabilities = own.get("capabilities", {})
    wrong = {
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "capabilities are not dropped": capabilities.get("drop") != ["ALL"],
        "capabilities are added": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "runs as root": both.get("runAsUser") == 0,
        "seccompProfile": _profile(both) not in ("RuntimeDefault", "Localhost"),
        "procMount": own.get("procMount", "Default") != "Default",
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is not True,
        "hostPort": any("hostPort" in port for port in container.get("ports", [])),
    }
    return [what for what, is_so in wrong.items() if is_so]


def _profile(context: Json) -> str:
    return str(context.get("seccompProfile", {}).get("type"))


def references(spec: Json) -> Iterator[tuple[str, str]]:
    """Every object that a pod names and cannot start without: ("Secret", "recto-database")."""
    for volume in spec.get("volumes", []):
        yield from _source(volume)
        for source in volume.get("projected", {}).get("sources", []):
            yield from _source(source)
    for container in containers(spec):
        for source in container.get("envFrom", []):
            yield from _source(source)
        for env in container.get("env", []):
            yield from _source(env.get("valueFrom", {}))
    for secret in spec.get("imagePullSecrets", []):
        yield "Secret", secret["name"]
    if name := spec.get("serviceAccountName"):
        yield "ServiceAccount", name


NAMES = {
    "configMap": ("ConfigMap", "name"),
    "configMapKeyRef": ("ConfigMap", "name"),
    "configMapRef": ("ConfigMap", "name"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "secret": ("Secret", "secretName"),
    "secretKeyRef": ("Secret", "name"),
    "secretRef": ("Secret", "name"),
}


def _source(source: Json) -> Iterator[tuple[str, str]]:
    for field, (kind, key) in NAMES.items():
        if field in source and not source[field].get("optional"):
            yield kind, source[field].get(key) or source[field]["name"]
