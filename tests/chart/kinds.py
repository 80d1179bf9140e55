"""The kinds that the fake cluster knows, and how it lists them to a client that asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of object: `api` is its apiVersion ("v1", "apps/v1"), `plural` its word in a URL."""

    api: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; the oldest one has no name."""
        return self.api.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within the group."""
        return self.api.rpartition("/")[2]


BUILT_IN = (
    Kind("v1", "ConfigMap", "configmaps"),
    Kind("v1", "Event", "events"),
    Kind("v1", "Namespace", "namespaces", namespaced=False),
    Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    Kind("v1", "Pod", "pods"),
    Kind("v1", "Secret", "secrets"),
    Kind("v1", "Service", "services"),
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("apps/v1", "DaemonSet", "daemonsets"),
    Kind("apps/v1", "Deployment", "deployments"),
    Kind("apps/v1", "ReplicaSet", "replicasets"),
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    Kind("batch/v1", "CronJob", "cronjobs"),
    Kind("batch/v1", "Job", "jobs"),
    Kind("networking.k8s.io/v1", "Ingress", "ingresses"),
    Kind("networking.k8s.io/v1", "IngressClass", "ingressclasses", namespaced=False),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
)
"""Kinds of Kubernetes itself, in every version from 1.29 on."""

CUSTOM = (
    Kind("gateway.networking.k8s.io/v1", "Gateway", "gateways"),
    Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
    Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects"),
    Kind("keda.sh/v1alpha1", "TriggerAuthentication", "triggerauthentications"),
    Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
    Kind("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules"),
    Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors"),
)
"""Kinds that operators add to a cluster; a test may leave their groups out."""

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The media type of aggregated discovery (Kubernetes 1.26 and later; stable since 1.30)."""

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def discovery(kinds: list[Kind], *, core: bool) -> Json:
    """An APIGroupDiscoveryList: of the nameless group (`/api`), or of all others (`/apis`)."""
    groups: dict[str, dict[str, list[Kind]]] = {}
    for kind in kinds:
        if (kind.group == "") == core:
            groups.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    items = [
        {
            "metadata": {"name": group} if group else {"creationTimestamp": None},
            "versions": [
                {"version": version, "freshness": "Current", "resources": _resources(members)}
                for version, members in versions.items()
            ],
        }
        for group, versions in groups.items()
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _resources(kinds: list[Kind]) -> list[Json]:
    return [
        {
            "resource": kind.plural,
            "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.name},
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "singularResource": kind.name.lower(),
            "verbs": VERBS,
        }
        for kind in kinds
    ]


def resource_list(kinds: list[Kind], api: str) -> Json:
    """An APIResourceList of one group and version, which Helm's watcher asks for now and then."""
    resources = [
        {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": VERBS,
        }
        for kind in kinds
        if kind.api == api
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api,
        "resources": resources,
    }
