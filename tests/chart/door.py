"""The HTTP side of the fake cluster: URLs, discovery, lists, watches, and errors."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.chart import envelope
from tests.chart.cluster import Cluster, Place, Refused
from tests.chart.kinds import BUILT_IN, DISCOVERY, discovery, resource_list

Json = dict[str, Any]

STRICT = {"in": "query", "name": "fieldValidation", "schema": {"type": "string"}}
"""How a server says that it checks fields; without it, a client refuses to ask for that."""


class Door(BaseHTTPRequestHandler):
    """Answers one connection."""

    cluster: Cluster
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Be quiet."""

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_PUT(self) -> None:
        self._answer("update")

    def do_PATCH(self) -> None:
        self._answer("patch")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def _answer(self, verb: str) -> None:
        """Do what is asked, or say why not; a fault of our own becomes a 500 that names it."""
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        path = url.path.removeprefix(self.cluster.prefix)
        body = self._body()
        try:
            if verb == "get" and (about := self._about(path)):
                self._send(200, about, DISCOVERY if "GroupDiscovery" in about["kind"] else "")
                return
            place = self._place(path)
            if verb == "get":
                self._read(place)
                return
            status, item = self._change(verb, place, body)
            self._send(status, item)
        except Refused as refused:
            self._refuse(refused)
        except ConnectionError:
            self.close_connection = True
        except Exception as fault:  # noqa: BLE001 - else Helm would only see a closed connection
            self._refuse(Refused(500, "InternalError", repr(fault)))

    def _body(self) -> Json:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if raw.startswith(envelope.MAGIC):
            return envelope.decode(raw)
        if "yaml" in self.headers.get("Content-Type", ""):
            loaded: Json = yaml.load(raw, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            return loaded
        return json.loads(raw) if raw else {}

    def _about(self, path: str) -> Json | None:
        """What the server says of itself."""
        cluster = self.cluster
        if path == "/version":
            major, _, minor = cluster.version.partition(".")
            return {"kind": "", "major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0"}
        if path in ("/api", "/apis"):
            return discovery(cluster.kinds, core=path == "/api")
        if path == "/openapi/v3":
            groups = {("apis/" if "/" in k.api else "api/") + k.api for k in cluster.kinds}
            paths = {g: {"serverRelativeURL": f"{cluster.prefix}/openapi/v3/{g}"} for g in groups}
            return {"kind": "", "paths": paths}
        if path.startswith("/openapi/v3/"):
            api = path.removeprefix("/openapi/v3/").partition("/")[2]
            return self._strictness(api)
        api = path.partition("/api/" if path.startswith("/api/") else "/apis/")[2]
        known = any(kind.api == api for kind in cluster.kinds)
        return resource_list(cluster.kinds, api) if known else None

    def _strictness(self, api: str) -> Json:
        """An OpenAPI document of one group that says no more than: fields are checked."""
        paths = {}
        for kind in self.cluster.kinds:
            if kind.api == api:
                named = {"group": kind.group, "version": kind.version, "kind": kind.name}
                patch = {"parameters": [STRICT], "x-kubernetes-group-version-kind": named}
                root = "/api" if kind in BUILT_IN and not kind.group else "/apis"
                paths[f"{root}/{api}/{kind.plural}/{{name}}"] = {"patch": patch}
        info = {"title": "fake", "version": self.cluster.version}
        return {"kind": "", "openapi": "3.0.0", "info": info, "paths": paths}

    def _place(self, path: str) -> Place:
        """The kind and the name that a path points at.

        Raises:
            Refused: 404, for a kind that this cluster does not know.
        """
        parts = path.strip("/").split("/")
        api, rest = (
            (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        )
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        for kind in self.cluster.kinds:
            if rest and (kind.api, kind.plural) == (api, rest[0]) and len(rest) < 3:
                return Place(kind, rest[1] if len(rest) > 1 else "", namespace)
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def _change(self, verb: str, place: Place, body: Json) -> tuple[int, Json]:
        cluster = self.cluster
        name = body.get("metadata", {}).get("name", "") if verb != "delete" else ""
        try:
            if verb == "create":
                status, item = 201, cluster.create(place.kind, body)
            elif verb == "update":
                status, item = 200, cluster.replace(place, body)
            elif verb == "patch":
                content_type = self.headers.get("Content-Type", "")
                status, item = 200, cluster.patch(place, content_type, body)
            else:
                status, item = 200, cluster.delete(place)
        except Refused as refused:
            cluster.note(verb, place, name, refused.status)
            raise
        cluster.note(verb, place, name, status)
        return status, item

    def _read(self, place: Place) -> None:
        cluster = self.cluster
        if place.name:
            item = cluster.find(place)
            self._send(200, item)
            cluster.looked(item)
        elif self.query.get("watch") in ("true", "1"):
            self._watch(place)
        else:
            with cluster.changed:
                items = [i for i in self._all(place) if self._wanted(i)]
                version = str(len(cluster.history))
            kind = place.kind
            self._send(200, _list(kind.api, kind.name, version, items))
            for item in items:
                cluster.looked(item)

    def _all(self, place: Place) -> list[Json]:
        return [i for (kind, _), i in self.cluster.objects.items() if kind == place.kind.name]

    def _wanted(self, item: Json) -> bool:
        """Whether an object is one that the query's selectors mean."""
        labels = item["metadata"].get("labels", {})
        for part in filter(None, self.query.get("labelSelector", "").split(",")):
            key, unequal, value = part.partition("!=")
            if not unequal:
                key, _, value = part.replace("==", "=").partition("=")
            if (labels.get(key) == value) is bool(unequal):
                return False
        wanted = self.query.get("fieldSelector", "").partition("metadata.name=")[2]
        return not wanted or item["metadata"]["name"] == wanted

    def _watch(self, place: Place) -> None:
        """Stream what happens to a kind from a version on, its present objects first when asked."""
        cluster, kind = self.cluster, place.kind
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        with cluster.changed:
            begin = self.query.get("resourceVersion") or "0"
            at = int(begin) if begin != "0" else len(cluster.history)
            first: list[Json] = []
            if self.query.get("sendInitialEvents") == "true":
                at, first = len(cluster.history), [i for i in self._all(place) if self._wanted(i)]
        for item in first:
            self._event("ADDED", item)
        if self.query.get("sendInitialEvents") == "true":
            note = {"k8s.io/initial-events-end": "true"}
            metadata = {"resourceVersion": str(at), "annotations": note}
            self._event(
                "BOOKMARK", {"kind": kind.name, "apiVersion": kind.api, "metadata": metadata}
            )
        while not cluster.closed and not self._gone():
            with cluster.changed:
                if at == len(cluster.history):
                    cluster.changed.wait(0.2)
                news, at = cluster.history[at:], len(cluster.history)
            for event, item in news:
                if item["kind"] == kind.name and self._wanted(item):
                    self._event(event, item)

    def _gone(self) -> bool:
        """Whether the client hung up: during a watch it sends nothing, only an end can be read."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def _event(self, event: str, item: Json) -> None:
        line = json.dumps({"type": event, "object": item}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()
        if event in ("ADDED", "MODIFIED"):
            self.cluster.looked(item)

    def _send(self, status: int, item: Json, content_type: str = "") -> None:
        data = json.dumps(item).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type or "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, refused: Refused) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        said = {"message": str(refused), "reason": refused.reason, "code": refused.status}
        self._send(refused.status, body | said)


def _list(api: str, kind: str, version: str, items: list[Json]) -> Json:
    metadata = {"resourceVersion": version}
    return {"kind": f"{kind}List", "apiVersion": api, "metadata": metadata, "items": items}


@contextmanager
def serving(cluster: Cluster) -> Iterator[Cluster]:
    """Serve `cluster` on a port of the loopback while the block runs."""
    handler = type("_Door", (Door,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    cluster.address = f"http://127.0.0.1:{server.server_port}{cluster.prefix}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield cluster
    finally:
        with cluster.changed:
            cluster.closed = True
            cluster.changed.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()
