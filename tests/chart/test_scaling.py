"""Autoscalers and the number of pods: switching one on takes no pod away, and no upgrade does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import fleet
from tests.chart.cluster import Cluster, Place
from tests.chart.door import serving
from tests.chart.fleet import CHART, FILES, NEXT, ONE_GPU, Json, life, named, own
from tests.chart.kinds import BUILT_IN
from tests.chart.release import Release
from tests.chart.schemas import USUAL

DEPLOYMENT = next(kind for kind in BUILT_IN if kind.name == "Deployment")
GLM = "recto-vllm-glm-ocr"
MODEL: Json = {"cache": {"size": ""}}
"""Weights in a folder of each pod, so that a model can have several."""

FIXED: Json = {
    "files__replicas": 3,
    "ocr__replicas": 4,
    "models__glm-ocr": MODEL | {"replicas": 2},
}
SCALED: Json = FIXED | {
    "files__autoscaling": {"enabled": True, "minReplicas": 2},
    "ocr__autoscaling": {"enabled": True, "minReplicas": 2},
    "models__glm-ocr": FIXED["models__glm-ocr"] | {"keda": {"minReplicas": 1}},
    "keda": {"enabled": True, "serverAddress": "http://prometheus.monitoring:9090"},
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving(Cluster(USUAL)) as one:
        yield one


def running(cluster: Cluster) -> dict[str, int]:
    """The pods of each Deployment."""
    return {
        name: item["spec"]["replicas"] for name, item in named(cluster.all(), "Deployment").items()
    }


def scale(cluster: Cluster, name: str, replicas: int) -> None:
    """What an autoscaler does."""
    change = {"spec": {"replicas": replicas}}
    cluster.patch(Place(DEPLOYMENT, name), "application/merge-patch+json", change)


def test_switching_autoscalers_on_takes_no_pod_away(cluster: Cluster) -> None:
    release = Release(cluster, CHART)
    release.install(own(ONE_GPU, **FIXED))
    assert running(cluster) == {"recto-files": 3, "recto-ocr": 4, GLM: 2}
    release.upgrade(own(ONE_GPU, **SCALED))
    assert named(cluster.all(), "HorizontalPodAutoscaler").keys() == {"recto-files", "recto-ocr"}
    assert named(cluster.all(), "ScaledObject").keys() == {GLM}
    assert running(cluster) == {"recto-files": 3, "recto-ocr": 4, GLM: 2}
    # And no moment of fewer in between.
    shown = [i["spec"]["replicas"] for _, i in cluster.history if i["kind"] == "Deployment"]
    assert min(shown) == 2


def test_upgrades_keep_what_the_autoscalers_chose(cluster: Cluster) -> None:
    release = Release(cluster, CHART)
    release.install(own(ONE_GPU, **SCALED))
    assert running(cluster) == {"recto-files": 2, "recto-ocr": 2, GLM: 1}
    chosen = {"recto-files": 5, "recto-ocr": 11, GLM: 3}
    for tag in (NEXT, f"{NEXT}-again"):
        for name, replicas in chosen.items():
            scale(cluster, name, replicas)
        release.upgrade(own(ONE_GPU, image__tag=tag, **SCALED))
        assert running(cluster) == chosen
        chosen = {name: replicas - 1 for name, replicas in chosen.items()}


def test_switching_autoscalers_off_gives_the_number_of_the_values(cluster: Cluster) -> None:
    release = Release(cluster, CHART)
    release.install(own(ONE_GPU, **SCALED))
    scale(cluster, "recto-ocr", 11)
    release.upgrade(own(ONE_GPU, **FIXED))
    assert running(cluster) == {"recto-files": 3, "recto-ocr": 4, GLM: 2}


def test_a_number_is_never_looked_up_of_another_release(cluster: Cluster) -> None:
    Release(cluster, CHART).install(own(ONE_GPU, **FIXED))
    names = {"fullnameOverride": "second", "serviceAccount__name": "second"}
    Release(cluster, CHART, "second").install(own(ONE_GPU, **names, **SCALED))
    assert running(cluster)["second-ocr"] == 2


@pytest.mark.parametrize("file", FILES)
def test_a_first_install_starts_with_the_fewest(file: str) -> None:
    objects = life(file, USUAL).objects
    for kind, least in (
        ("HorizontalPodAutoscaler", "minReplicas"),
        ("ScaledObject", "minReplicaCount"),
    ):
        for scaler in named(objects, kind).values():
            target = scaler["spec"]["scaleTargetRef"]
            assert (target["apiVersion"], target["kind"]) == ("apps/v1", "Deployment")
            spec = named(objects, "Deployment")[target["name"]]["spec"]
            assert spec["replicas"] == scaler["spec"][least]
    if file == fleet.EVERYTHING:
        assert {"HorizontalPodAutoscaler", "ScaledObject"} <= {i["kind"] for i in objects}
