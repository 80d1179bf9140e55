"""The fields of custom resources that a chart of ours may use, checked as strictly as the rest.

Their schemas are in no package, so this table is by hand. Sources: the API references of
prometheus-operator (monitoring.coreos.com/v1), KEDA 2.x (keda.sh/v1alpha1) and the Gateway API
(gateway.networking.k8s.io/v1, standard channel 1.2). A field that is missing here may well exist:
look it up there and add it.
"""

from __future__ import annotations

import re
from typing import Any

import jsonschema

Json = dict[str, Any]

ANY: Json = {}
TEXT: Json = {"type": "string", "minLength": 1}
WHOLE: Json = {"type": "integer", "minimum": 0}
WORDS: Json = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Json = {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$", "minLength": 2}
"""Both prometheus-operator's and the Gateway API's durations take this form (GEP-2257)."""


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


SELECTOR = fields(matchLabels=WORDS, matchExpressions=each(ANY))
RELABEL = fields(
    sourceLabels=each(TEXT),
    separator={"type": "string"},
    targetLabel=TEXT,
    regex={"type": "string"},
    replacement={"type": "string"},
    action=one_of("replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"),
)
ENDPOINT = fields(
    port=TEXT,
    path={"type": "string", "pattern": "^/"},
    scheme=one_of("http", "https"),
    interval=DURATION,
    scrapeTimeout=DURATION,
    honorLabels={"type": "boolean"},
    bearerTokenSecret=fields("name key", name=TEXT, key=TEXT),
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
) | {"oneOf": [{"required": ["alert"]}, {"required": ["record"]}]}
PROMETHEUS_RULE = fields(
    "groups", groups=each(fields("name rules", name=TEXT, interval=DURATION, rules=each(RULE, 1)))
)

TRIGGER = fields(
    "type metadata",
    type=one_of("prometheus", "cpu", "memory", "cron"),
    name=TEXT,
    metadata=WORDS,  # KEDA takes strings only: a number without quotes is refused.
    metricType=one_of("AverageValue", "Value", "Utilization"),
    authenticationRef=fields("name", name=TEXT, kind=TEXT),
)
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
    fallback=fields("failureThreshold replicas", failureThreshold=WHOLE, replicas=WHOLE),
    advanced=ANY,
    triggers=each(TRIGGER, 1),
)

PARENT = fields(
    "name",
    group=TEXT,
    kind=TEXT,
    name=TEXT,
    namespace=TEXT,
    sectionName=TEXT,
    port=number(1, 65535),
)
PATH = fields(
    "type value",
    type=one_of("Exact", "PathPrefix", "RegularExpression"),
    value={"type": "string", "maxLength": 1024},
)
MATCH = fields(
    path=PATH,
    method=one_of("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"),
    headers=each(fields("name value", name=TEXT, value=TEXT, type=TEXT)),
)
BACKEND = fields(
    "name port", group={"type": "string"}, kind=TEXT, name=TEXT, port=number(1, 65535), weight=WHOLE
)
ROUTE_RULE = fields(
    name=TEXT,
    matches=each(MATCH) | {"maxItems": 64},
    filters=each(ANY),
    backendRefs=each(BACKEND),
    timeouts=fields(request=DURATION, backendRequest=DURATION),
)
HTTP_ROUTE = fields(
    parentRefs=each(PARENT), hostnames=each(TEXT), rules=each(ROUTE_RULE) | {"maxItems": 16}
)

SPECS = {
    "HTTPRoute": HTTP_ROUTE,
    "PodMonitor": POD_MONITOR,
    "PrometheusRule": PROMETHEUS_RULE,
    "ScaledObject": SCALED_OBJECT,
    "ServiceMonitor": SERVICE_MONITOR,
}
"""Kind -> the schema of its `spec`."""

PROMETHEUS_TRIGGER = {"serverAddress", "query", "threshold"}
"""What KEDA's prometheus trigger cannot be without."""


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
    if kind == "ScaledObject" and not found:
        found += _triggers(item["spec"]["triggers"])
    if kind == "HTTPRoute" and not found:
        found += _expressions(item["spec"].get("rules", []))
    return found


def _triggers(triggers: list[Json]) -> list[str]:
    return [
        f"spec.triggers.{at}.metadata: no {', '.join(sorted(missing))}"
        for at, trigger in enumerate(triggers)
        if trigger["type"] == "prometheus"
        and (missing := PROMETHEUS_TRIGGER - trigger["metadata"].keys())
    ]


def _expressions(rules: list[Json]) -> list[str]:
    found = []
    for at, rule in enumerate(rules):
        for match in rule.get("matches", []):
            path = match.get("path", {})
            value = path.get("value", "/")
            if path.get("type") == "RegularExpression":
                re.compile(value)
            elif not value.startswith("/"):
                found.append(f"spec.rules.{at}: the path {value} begins with no slash")
    return found
