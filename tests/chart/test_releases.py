"""The real chart comes, changes and goes, with every values file and three Kubernetes versions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import fleet
from tests.chart.cluster import Cluster
from tests.chart.door import serving
from tests.chart.fleet import CHART, DISTRIBUTED, EMBEDDED, FILES, H100, NEXT, ONE_GPU, Json, own
from tests.chart.kinds import CUSTOM
from tests.chart.pods import pods
from tests.chart.release import Failed, Release
from tests.chart.schemas import USUAL, VERSIONS


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving(Cluster(USUAL)) as one:
        yield one


def test_no_values_file_is_missing() -> None:
    assert {EMBEDDED, H100, ONE_GPU, fleet.EVERYTHING} <= set(FILES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_release_comes_changes_and_goes(file: str, version: str) -> None:
    life = fleet.life(file, version)
    assert not life.error, life.error
    # Weights that took an hour to fetch stay on purpose, and say so.
    kept = {
        (i["kind"], i["metadata"].get("annotations", {}).get("helm.sh/resource-policy"))
        for i in life.left
    }
    assert kept <= {("PersistentVolumeClaim", "keep")}


@pytest.mark.parametrize("file", FILES)
def test_upgrade_changes_the_pods_of_the_api_alone(file: str) -> None:
    """A new image of the API restarts no vLLM server: each takes minutes to come back."""
    life = fleet.life(file, USUAL)
    assert life.objects
    before = {pod.owner: pod for pod in pods(life.installed)}
    changed = {pod.owner for pod in pods(life.upgraded) if pod != before.get(pod.owner)}
    assert changed == {
        p.owner for p in before.values() if p.component in ("embedded", "files", "ocr")
    }
    assert all(f":{NEXT}" in str(p.spec) for p in pods(life.upgraded) if p.owner in changed)


@pytest.mark.parametrize("file", DISTRIBUTED)
def test_new_version_of_the_chart_restarts_no_model(
    file: str, cluster: Cluster, tmp_path: Path
) -> None:
    """Weights take minutes to load, so the chart's version is no label of their pods."""
    release = Release(cluster, shutil.copytree(CHART, tmp_path / "helm"))
    release.install(own(file))
    before = {pod.owner: pod for pod in pods(cluster.all())}
    about = release.chart / "Chart.yaml"
    lines = about.read_text().splitlines()
    about.write_text(
        "\n".join(
            'version: "9.9.9"' if line.startswith("version:")
            else 'appVersion: "9.9.9"' if line.startswith("appVersion:")
            else line
            for line in lines
        )
    )  # fmt: skip
    release.upgrade(own(file))
    after = pods(cluster.all())
    assert [p.owner for p in after if p.component == "vllm" and p != before[p.owner]] == []
    assert [p.owner for p in after if p.component == "ocr" and p != before[p.owner]] != []


@pytest.mark.parametrize("file", DISTRIBUTED)
def test_migration_is_awaited_before_anything_else(file: str) -> None:
    life = fleet.life(file, USUAL)
    assert life.objects
    [first, second, *rest] = [entry for entry in life.log if not entry.startswith("delete")]
    job = f"Job {fleet.fullname(file)}-migrate"
    assert (first, second) == (f"create {job}", f"end {job}")
    upgrade = rest[rest.index(f"create {job}") :]
    assert upgrade[1] == f"end {job}"
    assert any(entry.startswith("patch Deployment") for entry in upgrade[2:])


@pytest.mark.parametrize("file", DISTRIBUTED)
def test_failing_migration_leaves_what_runs_untouched(file: str, cluster: Cluster) -> None:
    release = Release(cluster, CHART)
    release.install(own(file))
    before = {(i["kind"], i["metadata"]["name"]): i for i in cluster.all()}
    job = f"{fleet.fullname(file)}-migrate"
    cluster.failing = (job,)
    with pytest.raises(Failed, match="pre-upgrade"):
        release.upgrade(own(file, image__tag=NEXT))
    after = {(i["kind"], i["metadata"]["name"]): i for i in cluster.all()}
    # The Job that failed stays, so that its log can be read.
    assert after.keys() - before.keys() == {("Job", job)}
    assert {key: after[key] for key in before} == before


def test_failing_migration_stops_an_install(cluster: Cluster) -> None:
    cluster.failing = ("recto-migrate",)
    with pytest.raises(Failed, match="pre-install"):
        Release(cluster, CHART).install(own(ONE_GPU))
    assert [i["kind"] for i in cluster.all()] == ["Job"]


def test_an_install_that_failed_is_repeated_as_an_upgrade(cluster: Cluster) -> None:
    """The README's `helm upgrade --install`; `helm install` says that the name is in use."""
    release = Release(cluster, CHART)
    cluster.failing = ("recto-migrate",)
    with pytest.raises(Failed, match=r"pre-install: resource Job/.*/recto-migrate not ready"):
        release.install(own(ONE_GPU))
    cluster.failing = ()
    with pytest.raises(Failed, match="cannot reuse a name that is still in use"):
        release.install(own(ONE_GPU))
    release.upgrade(own(ONE_GPU))
    assert _contents(cluster.all()) == _contents(fleet.life(ONE_GPU, USUAL).objects)


def test_a_job_that_was_deleted_is_made_anew(cluster: Cluster) -> None:
    """What the README says of a Job that could not fetch its weights."""
    release = Release(cluster, CHART)
    release.install(own(H100))
    jobs = {name for kind, name in cluster.objects if kind == "Job"}
    [gone] = {name for name in jobs if name.startswith("recto-weights-glm-ocr-")}
    del cluster.objects["Job", gone]
    release.upgrade(own(H100))
    assert {name for kind, name in cluster.objects if kind == "Job"} == jobs


def test_weights_outlive_a_model_that_is_disabled_and_are_found_again(cluster: Cluster) -> None:
    release = Release(cluster, CHART)
    release.install(own(H100))
    claim = cluster.get("PersistentVolumeClaim", "recto-weights-lighton-ocr-2")
    release.upgrade(own(H100, **{"models__lighton-ocr-2": {"enabled": False}}))
    assert "recto-vllm-lighton-ocr-2" not in fleet.named(cluster.all(), "Deployment")
    assert cluster.get("PersistentVolumeClaim", "recto-weights-lighton-ocr-2") == claim
    release.upgrade(own(H100))
    assert "recto-vllm-lighton-ocr-2" in fleet.named(cluster.all(), "Deployment")
    release.uninstall()
    kept = cluster.all()
    assert {i["kind"] for i in kept} == {"PersistentVolumeClaim"}
    release.install(own(H100))
    now = fleet.named(cluster.all(), "PersistentVolumeClaim")
    assert {n: c["metadata"]["uid"] for n, c in now.items()} == {
        i["metadata"]["name"]: i["metadata"]["uid"] for i in kept
    }
    assert now[claim["metadata"]["name"]]["metadata"]["uid"] == claim["metadata"]["uid"]


@pytest.mark.parametrize("file", FILES)
def test_second_release_lives_beside_the_first(file: str, cluster: Cluster) -> None:
    names = {"fullnameOverride": "second", "serviceAccount__name": "second"}
    second = Release(cluster, CHART, "second")
    Release(cluster, CHART).install(own(file))
    second.install(own(file, **names))
    second.uninstall()
    first = fleet.life(file, USUAL).objects
    left = {(i["kind"], i["metadata"]["name"]) for i in cluster.all()}
    # The second's weights stay on purpose.
    kept = {(kind, name) for kind, name in left if name.startswith("second-weights-")}
    assert {kind for kind, _ in kept} <= {"PersistentVolumeClaim"}
    assert left - kept == {(i["kind"], i["metadata"]["name"]) for i in first}


@pytest.mark.parametrize("file", FILES)
def test_server_side_apply_makes_the_same_objects(file: str, cluster: Cluster) -> None:
    """Helm 4 applies on the server's side by default, Helm 3 on the client's."""
    Release(cluster, CHART).install(own(file), server_side=True)
    assert _contents(cluster.all()) == _contents(fleet.life(file, USUAL).objects)


@pytest.mark.parametrize("file", [EMBEDDED, ONE_GPU])
def test_usual_installs_need_no_operator(file: str) -> None:
    with serving(Cluster(USUAL, without=tuple(k.group for k in CUSTOM))) as cluster:
        Release(cluster, CHART).install(own(file))


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (EMBEDDED, {"imagee": {}}, "imagee"),
        (EMBEDDED, {"image__tagg": "1"}, "tagg"),
        (EMBEDDED, {"mode": "embeded"}, "mode"),
        (EMBEDDED, {"embedded__replicas": 2}, "embedded"),
        (EMBEDDED, {"embedded__autoscaling": {"enabled": True}}, "autoscaling"),
        (EMBEDDED, {"ocr__replicas": 3}, "ocr.replicas"),
        (EMBEDDED, {"ocr__autoscaling__enabled": True}, "autoscaling"),
        (EMBEDDED, {"models__glm-ocr": {}}, "mode: distributed"),
        (ONE_GPU, {"ocr__replicas": "two"}, "replicas"),
        (ONE_GPU, {"ocr__resorces": {}}, "resorces"),
        (ONE_GPU, {"models__no-such-card": {"enabled": True}}, "no-such-card"),
        (ONE_GPU, {"models__lighton-ocr-2__replica": 2}, "replica"),
        (ONE_GPU, {"vllm__gpuss": 2}, "gpuss"),
        (ONE_GPU, {"networkPolicy__enable": True}, "enable"),
        (ONE_GPU, {"keda__enable": True}, "enable"),
        (ONE_GPU, {"monitoring__enable": True}, "enable"),
        (ONE_GPU, {"database__existingSecret": ""}, "database.existingSecret"),
        (ONE_GPU, {"secret__existingSecret": ""}, "secret.existingSecret"),
        (ONE_GPU, {"blobs__url": "https://bucket"}, "blobs"),
    ],
)
def test_wrong_values_are_refused_before_any_change(
    file: str, changes: dict[str, object], said: str, cluster: Cluster
) -> None:
    with pytest.raises(Failed) as failed:
        Release(cluster, CHART).install(own(file, **changes))
    assert said in str(failed.value)
    assert cluster.log == []


def test_lint_finds_no_error(cluster: Cluster) -> None:
    assert not Release(cluster, CHART).lint()["Errors"]


def _contents(objects: list[Json]) -> dict[tuple[str, str], Json]:
    """Each object without what the server adds."""
    return {
        (i["kind"], i["metadata"]["name"]): {
            key: value for key, value in i.items() if key not in ("metadata", "status")
        }
        for i in objects
    }
