"""Kubernetes' own schemas, strict: a field that it does not know is an error with its path.

They are the files inside the package kubernetes-validate, read once per version; the package's own
function reads two megabytes of them for every object.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource

from tests.chart.kinds import Kind

Json = dict[str, Any]

OLDEST, USUAL, NEWEST = "1.29", "1.32", kubernetes_validate.latest_version().rpartition(".")[0]
VERSIONS = (OLDEST, USUAL, NEWEST)
"""The oldest version that the chart is for, one in the middle, the newest with a schema."""


def problems(item: Json, kind: Kind, version: str) -> list[str]:
    """What is wrong with an object of a built-in kind, as "path: what"; empty when it is right."""
    if item.get("apiVersion") != kind.api or item.get("kind") != kind.name:
        return [f"{item.get('apiVersion')} {item.get('kind')}: this URL is of {kind.name}"]
    found = []
    for error in _validator(version, _file(kind)).iter_errors(item):
        path = ".".join(str(part) for part in error.absolute_path)
        found.append(f"{path}: {error.message[:300]}")
    return found


def _file(kind: Kind) -> str:
    """Files are named deployment-apps-v1.json, networkpolicy-networking-v1.json, pod-v1.json."""
    parts = [kind.name.lower(), kind.group.partition(".")[0], kind.version]
    return "-".join(part for part in parts if part) + ".json"


@functools.cache
def _folder(version: str) -> Any:
    root = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    return root / f"v{version}.0-local-strict"


@functools.cache
def _definitions(version: str) -> Registry[Any]:
    loaded = json.loads((_folder(version) / "_definitions.json").read_text("utf-8"))
    return Resource.from_contents(loaded) @ Registry()


@functools.cache
def _validator(version: str, file: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((_folder(version) / file).read_text("utf-8"))
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))
