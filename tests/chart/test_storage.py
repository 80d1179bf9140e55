"""Room for documents, the claim of mode embedded, and what happens before its pod serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import fleet
from tests.chart.cluster import Cluster
from tests.chart.door import serving
from tests.chart.fleet import CHART, DISTRIBUTED, EMBEDDED, Json, life, named, own, whole
from tests.chart.pods import pods
from tests.chart.release import Failed, Release
from tests.chart.rules import containers, quantity
from tests.chart.schemas import USUAL


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving(Cluster(USUAL)) as one:
        yield one


TEMPORARY = 8 * 2**30
"""Bytes: what one process allows such documents by itself (RECTO_MAX_TEMPORARY_BYTES)."""


def _rooms(spec: Json) -> dict[str, Json]:
    """The folders of a pod that go with it, by where its first container has them."""
    volumes = {v["name"]: v["emptyDir"] for v in spec["volumes"] if "emptyDir" in v}
    mounts = spec["containers"][0]["volumeMounts"]
    return {m["mountPath"]: volumes[m["name"]] for m in mounts if m["name"] in volumes}


@pytest.mark.parametrize("file", DISTRIBUTED)
def test_documents_have_room_wherever_they_come_from(file: str) -> None:
    """/tmp has copies from S3; RECTO_DATA_DIR those of requests, of 48 MiB and more each."""
    for pod in pods(life(file, USUAL).objects):
        if pod.component in ("files", "ocr"):
            rooms, size = _rooms(pod.spec), whole(file)[pod.component]["tmpSize"]
            assert rooms["/tmp"] == rooms["/data"] == {"sizeLimit": size}, pod.owner
            assert quantity(size) > TEMPORARY, "documents of requests must not get a pod evicted"


@pytest.mark.parametrize("component", ["files", "ocr"])
def test_room_follows_the_values(component: str, cluster: Cluster) -> None:
    Release(cluster, CHART).install(own(fleet.ONE_GPU, **{f"{component}__tmpSize": "77Gi"}))
    [pod] = [p for p in pods(cluster.all()) if p.component == component]
    assert _rooms(pod.spec) == {"/tmp": {"sizeLimit": "77Gi"}, "/data": {"sizeLimit": "77Gi"}}


@pytest.mark.parametrize("file", [EMBEDDED, *DISTRIBUTED])
def test_limits_of_disk_hold_the_volumes(file: str) -> None:
    """A pod is evicted for the sum of its folders, too, where a container has such a limit."""
    for pod in pods(life(file, USUAL).everything):
        limits = [c["resources"]["limits"].get("ephemeral-storage") for c in containers(pod.spec)]
        on_disk = [r["sizeLimit"] for r in _rooms(pod.spec).values() if r.get("medium") != "Memory"]
        for limit in filter(None, limits):
            assert quantity(limit) > sum(map(quantity, on_disk)), pod.owner


def test_embedded_migrates_before_it_serves() -> None:
    """A startup probe kills what serves too late; it does not watch init containers."""
    [item] = named(life(EMBEDDED, USUAL).objects, "StatefulSet").values()
    spec = item["spec"]["template"]["spec"]
    migrate, init = spec["initContainers"]
    [serve] = spec["containers"]
    assert (migrate["name"], migrate["args"]) == ("migrate", ["db", "upgrade"])
    assert (init["name"], init["args"]) == ("init", ["init", "/data/first.key"])
    for first in (migrate, init):
        same = ("image", "imagePullPolicy", "command", "securityContext", "envFrom", "resources")
        assert {key: first[key] for key in same} == {key: serve[key] for key in same}
        assert first["volumeMounts"] == serve["volumeMounts"]
        assert first.get("env") == serve.get("env")


def test_embedded_gives_every_container_the_same_variables(cluster: Cluster) -> None:
    more = [{"name": "RECTO_DATABASE_URL", "value": "sqlite:////data/other.db"}]
    Release(cluster, CHART).install(own(EMBEDDED, pod__extraEnv=more))
    [pod] = pods(cluster.all())
    assert [c["env"] for c in containers(pod.spec)] == [more] * 3


def test_embedded_replaces_a_broken_pod() -> None:
    """With OrderedReady, the default, a pod that never gets ready blocks its own replacement."""
    [item] = named(life(EMBEDDED, USUAL).objects, "StatefulSet").values()
    assert item["spec"]["podManagementPolicy"] == "Parallel"
    assert item["spec"]["replicas"] == 1


def test_a_larger_volume_takes_the_way_of_the_readme(cluster: Cluster) -> None:
    release = Release(cluster, CHART)
    release.install(own(EMBEDDED))
    larger = own(EMBEDDED, embedded__storage__size="50Gi")
    with pytest.raises(Failed, match="volumeClaimTemplates"):
        release.upgrade(larger)
    del cluster.objects["StatefulSet", "recto"]
    release.upgrade(larger)
    [claim] = cluster.get("StatefulSet", "recto")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"
