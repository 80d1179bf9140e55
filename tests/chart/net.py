"""What NetworkPolicies let through, and where an Ingress or an HTTPRoute sends a path."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chart.pods import matches

Json = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """The other end of a connection: a pod by its labels, or an address outside the cluster."""

    labels: Json = field(default_factory=dict)
    namespace: str = "recto-test"
    address: str = ""


def allowed(
    policies: list[Json], way: str, labels: Json, peer: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Whether pods with `labels` may be reached by ("ingress"), or may reach ("egress"), `peer`.

    As networking.k8s.io/v1 says: pods that no policy selects may do all; others what any allows.
    """
    mine = [
        policy["spec"]
        for policy in policies
        if matches(policy["spec"].get("podSelector", {}), labels)
        and way.capitalize() in policy["spec"]["policyTypes"]
    ]
    return not mine or any(
        _peers(rule.get("from" if way == "ingress" else "to"), peer)
        and _ports(rule.get("ports"), port, protocol)
        for spec in mine
        for rule in spec.get(way) or []
    )


def _ports(ports: list[Json] | None, port: int, protocol: str) -> bool:
    return not ports or any(
        p.get("port", port) in (port, "http") and p.get("protocol", "TCP") == protocol
        for p in ports
    )


def _peers(peers: list[Json] | None, peer: Peer) -> bool:
    return not peers or any(_peer(one, peer) for one in peers)


def _peer(rule: Json, peer: Peer) -> bool:
    if "ipBlock" in rule:
        block = rule["ipBlock"]
        return bool(
            peer.address
            and _inside(peer.address, block["cidr"])
            and not any(_inside(peer.address, part) for part in block.get("except", []))
        )
    if peer.address:
        return False
    if "namespaceSelector" in rule:
        labels = {"kubernetes.io/metadata.name": peer.namespace}
        if not matches(rule["namespaceSelector"], labels):
            return False
    elif peer.namespace != "recto-test":
        return False
    return matches(rule.get("podSelector", {}), peer.labels)


def _inside(address: str, block: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(block)


Rule = tuple[str, str, str]
"""How a path is matched ("regex", "prefix" or "exact"), the path, the Service that answers."""


def ingress_rules(ingresses: list[Json]) -> list[Rule]:
    """The rules of one host, in the order of ingress-nginx: longer paths first.

    A path is a regular expression, from the path's beginning on, on every Ingress of a host of
    which one has the annotation use-regex.
    """
    notes = [item["metadata"].get("annotations", {}) for item in ingresses]
    regex = any(note.get("nginx.ingress.kubernetes.io/use-regex") == "true" for note in notes)
    found: list[Rule] = []
    for item in ingresses:
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                kind = "regex" if regex else path["pathType"].lower()
                found.append((kind, path["path"], path["backend"]["service"]["name"]))
    return sorted(found, key=lambda rule: -len(rule[1]))


def gateway_rules(route: Json) -> Iterator[list[Rule]]:
    """The rules of an HTTPRoute in each order that gateways are known to try them in."""
    rules: list[Rule] = []
    for rule in route["spec"]["rules"]:
        [backend] = rule["backendRefs"]
        for match in rule["matches"]:
            path = match["path"]
            kind = {"RegularExpression": "whole", "PathPrefix": "prefix", "Exact": "exact"}
            rules.append((kind[path["type"]], path["value"], backend["name"]))

    def exact(rule: Rule) -> bool:
        return rule[0] != "exact"

    yield sorted(rules, key=exact)
    yield sorted(rules, key=lambda rule: (exact(rule), -len(rule[1])))
    yield sorted(rules, key=lambda rule: (exact(rule), rule[0] == "whole", -len(rule[1])))
    yield sorted(rules, key=lambda rule: (exact(rule), rule[0] == "prefix", -len(rule[1])))


def answers(rules: list[Rule], path: str) -> str:
    """The Service that the first rule for `path` names; "" where none does."""
    for kind, pattern, service in rules:
        if kind == "regex":
            found = bool(re.match(pattern, path, re.IGNORECASE))
        elif kind == "whole":
            found = bool(re.fullmatch(pattern, path))
        elif kind == "prefix":
            found = path == pattern or path.startswith(pattern.rstrip("/") + "/")
        else:
            found = path == pattern
        if found:
            return service
    return ""
