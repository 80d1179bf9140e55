"""A fake Kubernetes API server, in a thread, for Helm to talk to.

It is a fake. It lists its kinds, checks every object strictly (schemas.py, custom.py, rules.py),
keeps it, and says at once what controllers would say in the end: a Deployment has its pods, a claim
its volume, a Job is done as soon as somebody has looked at it. What it cannot show: scheduling,
images, admission, rights (RBAC), the timing of probes, a real rollout, defaults that a server
fills in (but `replicas`), and what a NetworkPolicy, an ingress or an operator makes of an object.
Only a real cluster shows those.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import threading
from dataclasses import dataclass
from typing import Any

from tests.chart import custom, patches, rules, schemas
from tests.chart.kinds import BUILT_IN, CUSTOM, Kind

Json = dict[str, Any]

NAMESPACE = "recto-test"
FINISHED = "2026-01-01T00:00:00Z"
_numbers = itertools.count(1)


class Refused(Exception):
    """What the API answers instead of an object: an HTTP status, a reason, a sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Place:
    """Where a request points: a kind, and a name, or "" for all of the kind."""

    kind: Kind
    name: str = ""
    namespace: str = ""


@dataclass(frozen=True)
class Request:
    """One request that changed something, or tried to: "create Deployment recto-ocr", 201."""

    verb: str
    kind: str
    name: str
    status: int

    def __str__(self) -> str:
        return f"{self.verb} {self.kind} {self.name}"


class Cluster:
    """The objects, the rules they must keep, and what happened to them in order."""

    def __init__(self, version: str, without: tuple[str, ...] = (), failing: tuple[str, ...] = ()):
        """Be a cluster of Kubernetes `version` ("1.32"), `without` these API groups.

        `failing` are the names of Jobs that fail; it may be changed between two releases.
        """
        self.version, self.failing = version, failing
        self.kinds = [k for k in BUILT_IN + CUSTOM if k.group not in without]
        self.log: list[Request] = []
        self.objects: dict[tuple[str, str], Json] = {}
        self.history: list[tuple[str, Json]] = []
        self.changed = threading.Condition()
        self.closed = False
        # Clients keep what they learn of a server by its address, so no two share one.
        self.prefix = f"/cluster-{next(_numbers)}"
        self.address = ""

    def all(self, *kinds: str) -> list[Json]:
        """The objects as they stand, of these kinds or of all but Helm's own Secrets."""
        with self.changed:
            return [
                copy.deepcopy(item)
                for (kind, _), item in self.objects.items()
                if (kind in kinds or not kinds) and not _helms(item)
            ]

    def get(self, kind: str, name: str) -> Json:
        """One object as it stands."""
        return copy.deepcopy(self.objects[kind, name])

    def put(self, item: Json) -> None:
        """An object that was there before the chart: an existing Secret, say."""
        self.create(next(k for k in self.kinds if k.name == item["kind"]), item)

    def did(self, *verbs: str) -> list[str]:
        """What was done, in order: "create Deployment recto-ocr"; refused requests are left out."""
        return [
            str(r)
            for r in self.log
            if r.status < 400 and (not verbs or r.verb in verbs) and r.kind != "Secret"
        ]

    def note(self, verb: str, place: Place, name: str, status: int) -> None:
        """Write a request down."""
        self.log.append(Request(verb, place.kind.name, name or place.name, status))

    def find(self, place: Place) -> Json:
        """The object at `place`.

        Raises:
            Refused: 404.
        """
        item = self.objects.get((place.kind.name, place.name))
        if item is None:
            what = f"{place.kind.plural} {place.name!r} not found"
            raise Refused(404, "NotFound", what)
        return item

    def create(self, kind: Kind, item: Json) -> Json:
        """Keep a new object.

        Raises:
            Refused: 409 for a name that is taken; 400 or 422 for an object that is wrong.
        """
        item.setdefault("apiVersion", kind.api)
        item.setdefault("kind", kind.name)
        with self.changed:
            key = kind.name, item.get("metadata", {}).get("name", "")
            if key in self.objects:
                raise Refused(409, "AlreadyExists", f"{kind.plural} {key[1]!r} already exists")
            self._check(kind, item, None)
            item["metadata"] |= {"uid": f"uid-{len(self.history)}", "generation": 1}
            item["metadata"].setdefault("creationTimestamp", FINISHED)
            return self._keep("ADDED", kind, item)

    def replace(self, place: Place, item: Json) -> Json:
        """Put an object in the place of the one with its name.

        Raises:
            Refused: 404; 400 or 422 for an object that is wrong.
        """
        with self.changed:
            old = self.find(place)
            self._check(place.kind, item, old)
            if item.get("spec") != old.get("spec"):
                item["metadata"]["generation"] = old["metadata"]["generation"] + 1
            return self._keep("MODIFIED", place.kind, item)

    def patch(self, place: Place, content_type: str, patch: Json) -> Json:
        """Change an object; a server-side apply makes it where it is not there.

        Raises:
            Refused: 404, 415; 400 or 422 for what would become of it.
        """
        if "apply-patch" in content_type and (place.kind.name, place.name) not in self.objects:
            return self.create(place.kind, patch)
        old = copy.deepcopy(self.find(place))
        if "strategic-merge-patch" in content_type:
            new = patches.strategic(old, patch)
        elif "apply-patch" in content_type:
            # Field managers are not followed: what Helm no longer names in an object goes.
            kept = {k: old["metadata"][k] for k in ("uid", "generation", "creationTimestamp")}
            new = patch | {"metadata": patch["metadata"] | kept}
        elif "merge-patch" in content_type:
            new = patches.merged(old, patch)
        else:
            raise Refused(415, "UnsupportedMediaType", content_type)
        return self.replace(place, new)

    def delete(self, place: Place) -> Json:
        """Drop an object.

        Raises:
            Refused: 404.
        """
        with self.changed:
            item = self.find(place)
            del self.objects[place.kind.name, place.name]
            self._tell("DELETED", item)
            return item

    def looked(self, item: Json) -> None:
        """Somebody was told of `item`: now a Job may end, so that waiting is seen to happen."""
        if item["kind"] == "Job" and not item["status"].get("conditions"):
            with self.changed:
                name = item["metadata"]["name"]
                if self.objects.get(("Job", name)) is not item:
                    return
                ended = copy.deepcopy(item)
                ended["status"] = _ended(failed=name in self.failing)
                self.log.append(Request("end", "Job", name, 200))
                self._keep("MODIFIED", Kind("batch/v1", "Job", "jobs"), ended)

    def _check(self, kind: Kind, item: Json, old: Json | None) -> None:
        if kind in CUSTOM:
            found = custom.problems(item)
        else:
            found = schemas.problems(item, kind, self.version)
        if found:
            raise Refused(400, "BadRequest", "strict decoding error: " + "; ".join(found))
        found = [] if _helms(item) else rules.problems(item, old)
        if kind.name == "Secret" and len(json.dumps(item)) > rules.LARGEST:
            found.append("data: too long")
        if found:
            name = f"{kind.name} {item['metadata']['name']!r} is invalid: "
            raise Refused(422, "Invalid", name + "; ".join(found))

    def _keep(self, event: str, kind: Kind, item: Json) -> Json:
        item["metadata"].setdefault("namespace", NAMESPACE)
        if kind.name in ("Deployment", "StatefulSet"):
            # The one default that matters here: a patch that drops the number makes it 1.
            item["spec"].setdefault("replicas", 1)
        if kind.name != "Job" or not item.get("status"):
            item["status"] = status(item)
        if not item["status"]:
            del item["status"]
        self.objects[kind.name, item["metadata"]["name"]] = item
        self._tell(event, item)
        return item

    def _tell(self, event: str, item: Json) -> None:
        if event == "DELETED":
            item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(len(self.history) + 1)
        self.history.append((event, item))
        self.changed.notify_all()


def status(item: Json) -> Json:
    """What a controller would say of a healthy object in the end."""
    generation, spec = item["metadata"].get("generation", 1), item.get("spec", {})
    count = spec.get("replicas", 1)
    ready = {"observedGeneration": generation, "replicas": count, "readyReplicas": count}
    ready |= {"updatedReplicas": count, "availableReplicas": count}
    if item["kind"] == "Deployment":
        return ready | {"conditions": [_true("Available"), _true("Progressing")]}
    if item["kind"] == "StatefulSet":
        return ready | {"currentRevision": "r", "updateRevision": "r", "currentReplicas": count}
    if item["kind"] == "PodDisruptionBudget":
        return {"observedGeneration": generation, "currentHealthy": 1, "desiredHealthy": 1} | {
            "disruptionsAllowed": 1, "expectedPods": 1
        }  # fmt: skip
    if item["kind"] == "Job":
        return {"active": 1, "startTime": FINISHED}
    return {"phase": "Bound"} if item["kind"] == "PersistentVolumeClaim" else {}


def _ended(*, failed: bool) -> Json:
    condition = _true("Failed" if failed else "Complete")
    if failed:
        condition |= {"reason": "BackoffLimitExceeded", "message": "the fake cluster was told to"}
    counts: Json = {"failed": 1} if failed else {"succeeded": 1, "completionTime": FINISHED}
    return counts | {"startTime": FINISHED, "conditions": [condition]}


def _true(name: str) -> Json:
    reason = "NewReplicaSetAvailable" if name == "Progressing" else "Fake"
    return {"type": name, "status": "True", "reason": reason, "message": ""}


def _helms(item: Json) -> bool:
    return item.get("type") == "helm.sh/release.v1"


def secret(name: str, **values: str) -> Json:
    """A Secret that stands in the cluster before the chart comes."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
