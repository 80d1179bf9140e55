"""The fields of custom resources that a chart of ours may use, checked as strictly as the rest.

Their schemas are in no package, so this table is by hand. Sources:

- monitoring.coreos.com/v1: prometheus-operator/prometheus-operator,
  example/prometheus-operator-crd, 0.84.1 (PrometheusRule: 0.82.2)
- keda.sh/v1alpha1: kedacore/keda, apis/keda/v1alpha1/scaledobject_types.go, with what its webhook
  checks, and pkg/scalers/prometheus_scaler.go; kedacore/keda-docs, content/docs/2.18
- gateway.networking.k8s.io/v1: kubernetes-sigs/gateway-api, apis/v1/httproute_types.go; of it what
  is in the standard channel since 1.2

A field that is missing here may well exist: look it up there and add it. What is deprecated there
is left out on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jsonschema

Json = dict[str, Any]

ANY: Json = {}
TEXT: Json = {"type": "string", "minLength": 1}
WHOLE: Json = {"type": "integer", "minimum": 0}
WORDS: Json = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Json = {
    "type": "string",
    "pattern": r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$",
    "minLength": 1,
}
"""A duration of the Prometheus operator: each unit once at most, the longest first."""
GATEWAY_DURATION: Json = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
"""A duration of the Gateway API (GEP-2257): no more than 99999 of a unit, and no days."""
HOST = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""What the Gateway API takes as a host's name, and as a section's."""


def fields(required: str = "", **members: Json) -> Json:
    """An object with these fields and no others; `required` names some, parted by spaces."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": members,
    }


def each(member: Json, least: int = 0) -> Json:
    """A list of `member`."""
    return {"type": "array", "items": member, "minItems": least}


def one_of(*words: str) -> Json:
    """One of these words."""
    return {"enum": list(words)}


def number(least: int, most: int) -> Json:
    """A whole number in a range."""
    return {"type": "integer", "minimum": least, "maximum": most}


EXPRESSION: Json = {
    "oneOf": [
        fields(
            "key operator values", key=TEXT, operator=one_of("In", "NotIn"), values=each(TEXT, 1)
        ),
        fields("key operator", key=TEXT, operator=one_of("Exists", "DoesNotExist")),
    ]
}
SELECTOR = fields(matchLabels=WORDS, matchExpressions=each(EXPRESSION))
RELABEL = fields(
    sourceLabels=each({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}),
    separator={"type": "string"},
    targetLabel=TEXT,
    regex={"type": "string"},
    modulus=WHOLE,
    replacement={"type": "string"},
    action=one_of(
        "replace",
        "keep",
        "drop",
        "hashmod",
        "labelmap",
        "labeldrop",
        "labelkeep",
        "lowercase",
        "uppercase",
        "keepequal",
        "dropequal",
    ),
)
ENDPOINT = fields(
    port=TEXT,
    path={"type": "string", "pattern": "^/"},
    scheme=one_of("http", "https"),
    interval=DURATION,
    scrapeTimeout=DURATION,
    honorLabels={"type": "boolean"},
    authorization=fields(type=TEXT, credentials=fields("name key", name=TEXT, key=TEXT)),
    relabelings=each(RELABEL),
    metricRelabelings=each(RELABEL),
)
NAMESPACES = fields(any={"type": "boolean"}, matchNames=each(TEXT))
SERVICE_MONITOR = fields(
    "selector endpoints",
    selector=SELECTOR,
    namespaceSelector=NAMESPACES,
    endpoints=each(ENDPOINT, 1),
    jobLabel=TEXT,
    targetLabels=each(TEXT),
    podTargetLabels=each(TEXT),
    sampleLimit=WHOLE,
)
POD_MONITOR = fields(
    "selector podMetricsEndpoints",
    selector=SELECTOR,
    namespaceSelector=NAMESPACES,
    podMetricsEndpoints=each(ENDPOINT, 1),
    jobLabel=TEXT,
    podTargetLabels=each(TEXT),
    sampleLimit=WHOLE,
)
RULE: Json = fields(
    "expr",
    alert=TEXT,
    record=TEXT,
    expr={"type": ["string", "integer"]},
    labels=WORDS,
    annotations=WORDS,
    **{"for": DURATION},
    keep_firing_for=DURATION,
) | {
    "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
    # A recording rule has none of these.
    "dependentRequired": {key: ["alert"] for key in ("for", "keep_firing_for", "annotations")},
}
PROMETHEUS_RULE = fields(
    "groups", groups=each(fields("name rules", name=TEXT, interval=DURATION, rules=each(RULE, 1)))
)

TRIGGER = fields(
    "type metadata",
    type=one_of("prometheus", "cpu", "memory", "cron"),
    name=TEXT,
    metadata=WORDS,  # KEDA takes strings only: a number without quotes is refused.
    metricType=one_of("AverageValue", "Value", "Utilization"),
    useCachedMetrics={"type": "boolean"},
    authenticationRef=fields("name", name=TEXT, kind=TEXT),
)
SCALING = fields(
    stabilizationWindowSeconds=number(0, 3600),
    selectPolicy=one_of("Max", "Min", "Disabled"),
    policies=each(
        fields(
            "type value periodSeconds",
            type=one_of("Pods", "Percent"),
            value={"type": "integer", "minimum": 1},
            periodSeconds=number(1, 1800),
        ),
        1,
    ),
)
"""HPAScalingRules of autoscaling/v2, which KEDA hands on."""
SCALED_OBJECT = fields(
    "scaleTargetRef triggers",
    scaleTargetRef=fields(
        "name", apiVersion=TEXT, kind=TEXT, name=TEXT, envSourceContainerName=TEXT
    ),
    pollingInterval=WHOLE,
    cooldownPeriod=WHOLE,
    initialCooldownPeriod=WHOLE,
    idleReplicaCount=WHOLE,
    minReplicaCount=WHOLE,
    maxReplicaCount=WHOLE,
    fallback=fields(
        "failureThreshold replicas",
        failureThreshold=WHOLE,
        replicas=WHOLE,
        behavior=one_of(
            "static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"
        ),
    ),
    advanced=fields(
        restoreToOriginalReplicaCount={"type": "boolean"},
        horizontalPodAutoscalerConfig=fields(
            name=TEXT, behavior=fields(scaleUp=SCALING, scaleDown=SCALING)
        ),
    ),
    triggers=each(TRIGGER, 1),
)

PARENT = fields(
    "name",
    group=TEXT,
    kind=TEXT,
    name=TEXT,
    namespace=TEXT,
    sectionName={"type": "string", "pattern": f"^{HOST}$", "maxLength": 253},
    port=number(1, 65535),
)
PATH = fields(
    "type value",
    type=one_of("Exact", "PathPrefix", "RegularExpression"),
    value={"type": "string", "maxLength": 1024},
)
MATCH = fields(
    path=PATH,
    method=one_of("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"),
    headers=each(
        fields("name value", name=TEXT, value=TEXT, type=one_of("Exact", "RegularExpression"))
    ),
)
BACKEND = fields(
    "name port",
    group={"type": "string"},
    kind=TEXT,
    name=TEXT,
    port=number(1, 65535),
    weight=number(0, 1_000_000),
)
ROUTE_RULE = fields(
    matches=each(MATCH) | {"maxItems": 64},
    filters=each(ANY) | {"maxItems": 16},
    backendRefs=each(BACKEND) | {"maxItems": 16},
    timeouts=fields(request=GATEWAY_DURATION, backendRequest=GATEWAY_DURATION),
)
HTTP_ROUTE = fields(
    parentRefs=each(PARENT) | {"maxItems": 32},
    hostnames=each({"type": "string", "pattern": rf"^(\*\.)?{HOST}$", "maxLength": 253})
    | {"maxItems": 16},
    rules=each(ROUTE_RULE, 1) | {"maxItems": 16},
)

SPECS = {
    "HTTPRoute": HTTP_ROUTE,
    "PodMonitor": POD_MONITOR,
    "PrometheusRule": PROMETHEUS_RULE,
    "ScaledObject": SCALED_OBJECT,
    "ServiceMonitor": SERVICE_MONITOR,
}
"""Kind -> the schema of its `spec`."""

PROMETHEUS_NEEDS = {"serverAddress", "query", "threshold"}
"""What KEDA's prometheus trigger cannot be without."""
PROMETHEUS_TAKES = PROMETHEUS_NEEDS | {
    "activationThreshold",
    "authModes",
    "awsRegion",
    "customHeaders",
    "identityOwner",
    "ignoreNullValues",
    "namespace",
    "queryParameters",
    "timeout",
    "unsafeSsl",
}
"""What it reads. Any other key is passed over in silence: a misspelt one too."""
PROMETHEUS_FORMS = {
    "threshold": r"\d+(\.\d+)?",
    "activationThreshold": r"\d+(\.\d+)?",
    "ignoreNullValues": "true|false",
    "unsafeSsl": "true|false",
}
"""Forms of some of them: all are text."""
PLAIN_PATH = re.compile(r"/(?!.*(//|/\.{1,2}(/|$)|%2[fF]))([-\w/.~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
"""A path of a match that is no regular expression."""


def problems(item: Json) -> list[str]:
    """What is wrong with a custom resource, as "path: what"; empty when it is right."""
    kind = item.get("kind", "")
    if kind not in SPECS:
        return [f"kind: the table of tests/chart/custom.py has no {kind}"]
    whole = fields(
        "metadata spec", apiVersion=TEXT, kind=TEXT, metadata=ANY, spec=SPECS[kind], status=ANY
    )
    found = []
    for error in jsonschema.Draft202012Validator(whole).iter_errors(item):
        path = ".".join(str(part) for part in error.absolute_path)
        found.append(f"{path}: {error.message[:300]}")
    return found or [said for check in FURTHER.get(kind, ()) for said in check(item["spec"])]


def _rules(spec: Json) -> list[str]:
    """A cluster refuses two groups of one name; two alerts of one name are allowed."""
    names = [group["name"] for group in spec["groups"]]
    return [f"spec.groups: {name} twice" for name in sorted({*names}) if names.count(name) > 1]


def _scaling(spec: Json) -> list[str]:
    """What KEDA's webhook and its scaler refuse, and what the scaler would overlook."""
    least, most = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    found = []
    # The autoscaler's own least is 1, whatever KEDA's is.
    if max(least, 1) > most:
        found.append(f"spec.minReplicaCount: {least} is more than maxReplicaCount, {most}")
    if "idleReplicaCount" in spec and (spec["idleReplicaCount"] or not least):
        found.append("spec.idleReplicaCount: only 0 works, and only below minReplicaCount")
    for at, trigger in enumerate(spec["triggers"]):
        where = f"spec.triggers.{at}"
        # Versions before 2.18 take no other, and one of them refuses a trigger without any.
        if "fallback" in spec and trigger.get("metricType") != "AverageValue":
            found.append(f"{where}.metricType: a fallback needs AverageValue")
        if trigger["type"] == "prometheus":
            found += _prometheus(where, trigger)
    return found


def _prometheus(where: str, trigger: Json) -> list[str]:
    metadata = trigger["metadata"]
    found = []
    if missing := PROMETHEUS_NEEDS - metadata.keys():
        found.append(f"{where}.metadata: no {', '.join(sorted(missing))}")
    if unknown := metadata.keys() - PROMETHEUS_TAKES:
        found.append(f"{where}.metadata: nothing reads {', '.join(sorted(unknown))}")
    if trigger.get("metricType") == "Utilization":
        found.append(f"{where}.metricType: Utilization is for cpu and memory")
    return found + [
        f"{where}.metadata.{name}: {metadata[name]} does not match {form}"
        for name, form in PROMETHEUS_FORMS.items()
        if name in metadata and not re.fullmatch(form, metadata[name])
    ]


def _routing(spec: Json) -> list[str]:
    """The rules that the CRD of HTTPRoute writes in CEL, and that regular expressions compile."""
    found = []
    rules = spec.get("rules", [])
    if sum(len(rule.get("matches", [])) for rule in rules) > 128:
        found.append("spec.rules: more than 128 matches")
    for at, rule in enumerate(rules):
        paths = [match["path"] for match in rule.get("matches", []) if "path" in match]
        found += [f"spec.rules.{at}: {said}" for path in paths if (said := _path(path))]
        timeouts = rule.get("timeouts", {})
        whole, part = (_seconds(timeouts.get(name, "0s")) for name in ("request", "backendRequest"))
        if whole and part > whole:
            found.append(f"spec.rules.{at}.timeouts: backendRequest is longer than request")
    return found


def _path(path: Json) -> str:
    """What is wrong with a path's match; empty when nothing is. Gateways mostly speak RE2."""
    value = path["value"]
    if path["type"] != "RegularExpression":
        return "" if PLAIN_PATH.fullmatch(value) else f"the path {value} is not absolute and plain"
    try:
        re.compile(value)
    except re.error as wrong:
        return f"the expression {value}: {wrong}"
    return f"{value} looks around, which RE2 cannot" if re.search(r"\(\?<?[=!]", value) else ""


def _seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"(\d+)(ms|h|m|s)", duration)
    return sum(int(count) * units[unit] for count, unit in parts)


FURTHER: dict[str, tuple[Callable[[Json], list[str]], ...]] = {
    "HTTPRoute": (_routing,),
    "PrometheusRule": (_rules,),
    "ScaledObject": (_scaling,),
}
"""Kind -> what a schema cannot say of its `spec`."""
