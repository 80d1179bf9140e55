"""Kubernetes' protobuf, as far as Helm speaks it: Secrets, and options of a deletion.

An object travels as the four bytes `k8s\0` and a runtime.Unknown message. The field numbers are of
k8s.io/apimachinery/pkg/runtime/generated.proto, .../meta/v1/generated.proto and
k8s.io/api/core/v1/generated.proto.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

MAGIC = b"k8s\0"


def decode(body: bytes) -> Json:
    """The object in an envelope, as JSON would say it.

    Raises:
        ValueError: an object that Helm is not known to send this way.
    """
    unknown = _last(body.removeprefix(MAGIC))
    kind = _last(unknown[1]).get(2, b"").decode()
    if kind == "DeleteOptions":
        return {"kind": kind}
    if kind != "Secret":
        raise ValueError(f"protobuf of {kind} is not understood here")
    return _secret(unknown[2])


def _secret(raw: bytes) -> Json:
    data: dict[str, str] = {}
    item: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": data}
    for field, value in _fields(raw):
        if field == 1:
            item["metadata"] = _metadata(value)
        elif field == 2:
            key, content = _pair(value)
            data[key.decode()] = base64.b64encode(content).decode()
        elif field == 3:
            item["type"] = value.decode()
    return item


def _metadata(raw: bytes) -> Json:
    named = {1: "name", 3: "namespace", 6: "resourceVersion"}
    maps = {11: "labels", 12: "annotations"}
    found: Json = {}
    for field, value in _fields(raw):
        if field in named and value:
            found[named[field]] = value.decode()
        elif field in maps:
            key, content = _pair(value)
            found.setdefault(maps[field], {})[key.decode()] = content.decode()
    return found


def _pair(raw: bytes) -> tuple[bytes, bytes]:
    entry = _last(raw)
    return entry.get(1, b""), entry.get(2, b"")


def _last(raw: bytes) -> dict[int, bytes]:
    return dict(_fields(raw))


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Each field of a message with bytes in it; numbers are passed over."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        if tag & 7 == 0:
            _, at = _varint(raw, at)
        elif tag & 7 == 2:
            size, at = _varint(raw, at)
            yield tag >> 3, raw[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {tag & 7} is not understood here")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
