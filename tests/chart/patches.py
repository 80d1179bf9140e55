"""How an API server applies a patch: JSON merge patches, and strategic merge patches.

Written after RFC 7396 and Kubernetes' "Strategic Merge Patch" notes (sig-api-machinery); the list
keys are `x-kubernetes-patch-merge-key` of the API, for the kinds that a chart makes.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "secrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""List -> the field that names an entry; a list that is not here is replaced as a whole."""


def merged(target: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396): null removes, an object merges, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def strategic(target: Json, patch: Json) -> Json:
    """A strategic merge patch: as a merge patch, but lists with a key are merged by that key."""
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result = dict(target)
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            old = result.get(key)
            result[key] = strategic(old if isinstance(old, dict) else {}, value)
        elif isinstance(value, list):
            result[key] = _list(key, result.get(key) or [], value)
        else:
            result[key] = value
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            _sort(result, key.partition("/")[2], order)
    return result


def _key(field: str, entries: list[Any]) -> str | None:
    """`ports` is the one list with two keys: a container's, and a Service's."""
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return None
    if field == "ports":
        return "containerPort" if any("containerPort" in entry for entry in entries) else "port"
    return MERGE_KEYS.get(field)


def _list(field: str, old: list[Any], patch: list[Any]) -> list[Any]:
    key = _key(field, patch)
    if key is None or any(key not in entry for entry in patch):
        return patch
    result = {entry[key]: entry for entry in old}
    for entry in patch:
        name = entry[key]
        if entry.get("$patch") == "delete":
            result.pop(name, None)
        else:
            result[name] = strategic(result.get(name, {}), entry)
    return list(result.values())


def _sort(target: Json, field: str, order: list[Any]) -> None:
    entries = target.get(field)
    key = _key(field, order)
    if key is None or not entries:
        return
    names = [entry[key] for entry in order]
    target[field] = sorted(
        entries, key=lambda e: names.index(e[key]) if e[key] in names else len(names)
    )
