"""The fake cluster and Helm, on a chart of a few lines: what is wrong is refused, order is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart.cluster import Cluster, secret
from tests.chart.door import serving
from tests.chart.release import Failed, Release, values
from tests.chart.schemas import USUAL, VERSIONS

CHART = "apiVersion: v2\nname: tiny\nversion: 0.1.0\n"

SCHEMA = '{"type": "object", "additionalProperties": false, "properties": {"image": {}}}'

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web
          image: {{ .Values.image | default "web:1" }}
          env:
            - {name: FIRST, value: "1"}
            - {name: SECOND, value: "2"}
          readinessProbe:
            httpGet: {path: /, port: 80}
"""

JOB = """
apiVersion: batch/v1
kind: Job
metadata:
  name: migrate
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - {name: migrate, image: "web:1"}
"""

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: data
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
"""

MONITOR = """
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  endpoints: [{port: http, interval: 30s}]
{{- end }}
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving(Cluster(USUAL)) as one:
        yield one


def chart(folder: Path, *templates: str) -> Path:
    """A chart of these templates, with a schema that knows the value `image` only."""
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text(CHART)
    (folder / "values.schema.json").write_text(SCHEMA)
    for number, text in enumerate(templates):
        (folder / "templates" / f"{number}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_release_comes_and_goes(version: str, tmp_path: Path) -> None:
    with serving(Cluster(version)) as cluster:
        release = Release(cluster, chart(tmp_path, DEPLOYMENT, JOB, MONITOR))
        release.install()
        assert {i["kind"] for i in cluster.all()} == {"Deployment", "ServiceMonitor"}
        release.upgrade({"image": "web:2"})
        [container] = cluster.get("Deployment", "web")["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "web:2"
        # A strategic merge patch names what changes only; the rest must have stayed.
        assert [entry["name"] for entry in container["env"]] == ["FIRST", "SECOND"]
        release.uninstall()
        assert cluster.objects == {}


def test_server_side_apply_installs_and_upgrades(cluster: Cluster, tmp_path: Path) -> None:
    """Helm 4 does so by default; the client-side way is that of Helm 3."""
    release = Release(cluster, chart(tmp_path, DEPLOYMENT, JOB))
    release.install(server_side=True)
    release.upgrade({"image": "web:2"})
    assert "patch Deployment web" in cluster.did()
    [container] = cluster.get("Deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "web:2"


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("readinessProbe:", "readynessProbe:", "'readynessProbe' was unexpected"),
        ("replicas: 2", 'replicas: "two"', "spec.replicas"),
        ("labels: {app: web}", "labels: {app: other}", "spec.selector"),
        ("name: SECOND", "name: FIRST", "FIRST twice"),
    ],
)
def test_misspelt_field_is_refused_with_its_path(
    right: str, wrong: str, said: str, server_side: bool, cluster: Cluster, tmp_path: Path
) -> None:
    release = Release(cluster, chart(tmp_path, DEPLOYMENT.replace(right, wrong)))
    with pytest.raises(Failed, match=said):
        release.install(server_side=server_side)
    assert cluster.all() == []


@pytest.mark.parametrize("wrong", ["intervall: 30s", "interval: 30"])
def test_custom_resource_is_checked_too(wrong: str, cluster: Cluster, tmp_path: Path) -> None:
    release = Release(cluster, chart(tmp_path, MONITOR.replace("interval: 30s", wrong)))
    with pytest.raises(Failed, match=r"spec\.endpoints\.0"):
        release.install()


def test_chart_can_ask_what_the_cluster_knows(tmp_path: Path) -> None:
    with serving(Cluster(USUAL, without=("monitoring.coreos.com",))) as cluster:
        Release(cluster, chart(tmp_path, DEPLOYMENT, MONITOR)).install()
        assert [i["kind"] for i in cluster.all()] == ["Deployment"]


def test_unknown_value_is_refused_before_any_change(cluster: Cluster, tmp_path: Path) -> None:
    release = Release(cluster, chart(tmp_path, DEPLOYMENT))
    with pytest.raises(Failed, match="immage"):
        release.install({"immage": "web:2"})
    assert cluster.log == []


def test_hook_is_awaited_before_the_deployment(cluster: Cluster, tmp_path: Path) -> None:
    """A Job of the fake cluster ends only when Helm has looked at it: it did wait."""
    release = Release(cluster, chart(tmp_path, DEPLOYMENT, JOB))
    release.install()
    assert cluster.did() == [
        "create Job migrate",
        "end Job migrate",
        "delete Job migrate",
        "create Deployment web",
    ]
    cluster.log.clear()
    release.upgrade({"image": "web:2"})
    assert cluster.did("create", "end", "patch") == [
        "create Job migrate",
        "end Job migrate",
        "patch Deployment web",
    ]


def test_failing_hook_stops_an_install(cluster: Cluster, tmp_path: Path) -> None:
    cluster.failing = ("migrate",)
    with pytest.raises(Failed, match="pre-install"):
        Release(cluster, chart(tmp_path, DEPLOYMENT, JOB)).install()
    assert cluster.all("Deployment") == []


def test_failing_hook_leaves_what_runs_untouched(cluster: Cluster, tmp_path: Path) -> None:
    release = Release(cluster, chart(tmp_path, DEPLOYMENT, JOB))
    release.install()
    before = cluster.get("Deployment", "web")
    cluster.failing = ("migrate",)
    with pytest.raises(Failed, match="pre-upgrade"):
        release.upgrade({"image": "web:2"})
    assert cluster.get("Deployment", "web") == before


def test_uninstall_leaves_what_is_kept_on_purpose(cluster: Cluster, tmp_path: Path) -> None:
    cluster.put(secret("mine", key="value"))
    release = Release(cluster, chart(tmp_path, DEPLOYMENT, CLAIM))
    release.install()
    release.uninstall()
    assert [(i["kind"], i["metadata"]["name"]) for i in cluster.all()] == [
        ("Secret", "mine"),
        ("PersistentVolumeClaim", "data"),
    ]


def test_lint_finds_no_error_in_a_right_chart(cluster: Cluster, tmp_path: Path) -> None:
    assert not Release(cluster, chart(tmp_path, DEPLOYMENT)).lint()["Errors"]


def test_values_of_a_file_can_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("ocr: {replicas: 1, image: a}\n")
    assert values(file, ocr__replicas=3, files__on=True) == {
        "ocr": {"replicas": 3, "image": "a"},
        "files": {"on": True},
    }
