"""What the chart's objects promise, whichever values file they come from."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import fleet
from tests.chart.fleet import DISTRIBUTED, EMBEDDED, FILES, Json, life, named, whole
from tests.chart.pods import matches, pods, references, unrestricted
from tests.chart.rules import containers, quantity
from tests.chart.schemas import USUAL

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|DATABASE_URL")
"""Names of variables whose values nobody may read in an object."""

RELAXED = {
    fleet.EVERYTHING: {
        "lighton-ocr-2": {"volume cache"},
        "lighton-ocr-2-bbox": {
            "vllm: runAsNonRoot",
            "vllm: runs as root",
            "vllm: readOnlyRootFilesystem",
        },
    }
}
"""What a values file gives up on purpose, to show that it can be: a folder of the node, root."""

NO_SECRET = {"RECTO_REQUIRE_KEYS", "RECTO_MAX_KEYS"}

files = pytest.mark.parametrize("file", FILES)
distributed = pytest.mark.parametrize("file", DISTRIBUTED)


@files
def test_containers_have_resources(file: str) -> None:
    """Memory has a limit everywhere; a limit of the processor would only slow a page down."""
    for pod in pods(life(file, USUAL).everything):
        for container in containers(pod.spec):
            where = f"{pod.owner}/{container['name']}"
            resources = container.get("resources", {})
            assert {"cpu", "memory"} <= resources.get("requests", {}).keys(), where
            assert "memory" in resources.get("limits", {}), where
            assert quantity(resources["requests"]["memory"]) >= 2**20, where


@files
def test_lasting_containers_have_probes(file: str) -> None:
    for pod in pods(life(file, USUAL).everything):
        for container in pod.spec["containers"]:
            where = f"{pod.owner}/{container['name']}"
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            probes = [k for k in container if k.endswith("Probe")]
            if not pod.lasting:
                assert probes == [], where
                continue
            assert {"livenessProbe", "readinessProbe"} <= set(probes), where
            assert ports["http"] == 8000, where
            for probe in probes:
                if probe == "startupProbe" and "exec" in container[probe]:
                    assert pod.component == "vllm", where  # it shows its key, from the environment
                    assert "/v1/models" in container[probe]["exec"]["command"][-1]
                    continue
                assert container[probe]["httpGet"]["port"] == "http", where


@files
def test_liveness_depends_on_nothing_else(file: str) -> None:
    """A dead database or engine is no reason to restart a pod (R18)."""
    for pod in pods(life(file, USUAL).objects):
        if pod.lasting:
            [container] = pod.spec["containers"]
            alive = container["livenessProbe"]["httpGet"]["path"]
            assert alive == ("/health" if pod.component == "vllm" else "/livez")
            if pod.component != "vllm":
                assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@distributed
def test_model_has_half_an_hour_to_start(file: str) -> None:
    for pod in pods(life(file, USUAL).objects):
        if pod.component == "vllm":
            probe = pod.spec["containers"][0]["startupProbe"]
            assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800
            deployment = named(life(file, USUAL).objects, "Deployment")[pod.owner]
            # Else Kubernetes calls the rollout failed while the weights are still loading.
            assert deployment["spec"]["progressDeadlineSeconds"] > 1800


@files
def test_pods_keep_to_the_restricted_profile(file: str) -> None:
    for pod in pods(life(file, USUAL).everything):
        relaxed = RELAXED.get(file, {}).get(pod.labels.get("recto.dev/model"), set())
        assert set(unrestricted(pod.spec)) == relaxed, pod.owner


@files
def test_every_pod_runs_as_the_user_of_the_image(file: str) -> None:
    for pod in pods(life(file, USUAL).everything):
        context = pod.spec["securityContext"]
        if context["runAsUser"] == 0:
            assert "vllm: runs as root" in RELAXED[file][pod.labels["recto.dev/model"]]
            continue
        assert [context[k] for k in ("runAsUser", "runAsGroup", "fsGroup")] == [10001] * 3, (
            pod.owner
        )


@files
def test_no_object_holds_a_secret(file: str) -> None:
    objects = life(file, USUAL).everything
    assert named(objects, "Secret") == {}
    for name, settings in named(objects, "ConfigMap").items():
        wrong = [k for k in settings["data"] if SECRET.search(k) and k not in NO_SECRET]
        assert wrong == [], name
    for pod in pods(objects):
        for container in containers(pod.spec):
            for env in container.get("env", []):
                if SECRET.search(env["name"]) and env["name"] not in NO_SECRET:
                    assert "secretKeyRef" in env.get("valueFrom", {}), env["name"]
    assert not re.search(r"://[^/\s\"]+:[^/\s\"]+@", json.dumps(objects))


@files
def test_what_a_pod_names_exists(file: str) -> None:
    objects = life(file, USUAL).everything
    there = {(i["kind"], i["metadata"]["name"]) for i in objects}
    there |= {("Secret", name) for name in _given(whole(file), "existingSecret")}
    there |= {("Secret", name) for name in whole(file)["image"]["pullSecrets"]}
    there |= {("PersistentVolumeClaim", name) for name in _given(whole(file), "existingClaim")}
    there |= {("ServiceAccount", "default")}
    there |= {("ServiceAccount", name) for name in _given(whole(file), "serviceAccountName")}
    extra = {"volumes": whole(file)["pod"]["extraVolumes"], "containers": []}
    there |= set(references(extra))
    for pod in pods(objects):
        assert set(references(pod.spec)) <= there, pod.owner


@files
def test_hook_uses_nothing_that_comes_after_it(file: str) -> None:
    """At the first install the migration runs before any other object of the chart exists."""
    for pod in pods(life(file, USUAL).hooks):
        assert {kind for kind, _ in references(pod.spec)} <= {"Secret"}, pod.owner


@files
def test_keys_that_containers_read_exist(file: str) -> None:
    """A file that is mounted, or named in a variable, is in its ConfigMap."""
    objects = life(file, USUAL).objects
    settings, name = named(objects, "ConfigMap"), fleet.fullname(file)
    [api, *_] = [p for p in pods(objects) if p.component in ("embedded", "ocr")]
    data = settings[f"{name}-settings"]["data"]
    mounts = {m["name"]: m["mountPath"] for m in api.spec["containers"][0]["volumeMounts"]}
    assert all("subPath" not in m for m in api.spec["containers"][0]["volumeMounts"])
    assert mounts["routes"] == "/etc/recto/routes"
    assert data["RECTO_ROUTES"] == "/etc/recto/routes/routes.yaml"
    assert "routes.yaml" in settings[f"{name}-routes"]["data"]
    assert data["RECTO_MODELS_DIR"] == mounts["models"] == "/etc/recto/models"
    assert "rapidocr.yaml" in settings[f"{name}-models"]["data"]
    assert data["RECTO_DATA_DIR"] == mounts["data"] == "/data"


@files
def test_pods_have_time_to_drain(file: str) -> None:
    """R18: a pod is killed only after the drain, and 10 seconds to close."""
    drain = int(whole(file)["settings"]["drain_seconds"])
    for pod in pods(life(file, USUAL).objects):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if not pod.lasting:
            continue
        stop = pod.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert stop[0] == "sleep", pod.owner
        if pod.component == "vllm":
            args = pod.spec["containers"][0]["args"]
            drain_engine = int(args[args.index("--shutdown-timeout") + 1])
            assert grace >= drain_engine + int(stop[1]) + 10, pod.owner
        else:
            assert grace >= drain + int(stop[1]) + 10, pod.owner


@files
def test_selectors_mean_their_own_pods_alone(file: str) -> None:
    objects = life(file, USUAL).everything
    all_pods = pods(objects)
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet"):
            selector, mine = item["spec"]["selector"], {item["metadata"]["name"]}
        elif item["kind"] == "Service":
            selector, mine = {"matchLabels": item["spec"]["selector"]}, {item["metadata"]["name"]}
        elif item["kind"] == "PodDisruptionBudget":
            selector, mine = item["spec"]["selector"], {item["metadata"]["name"]}
        else:
            continue
        meant = {pod.owner for pod in all_pods if matches(selector, pod.labels)}
        assert meant == mine, f"{item['kind']} {item['metadata']['name']}"


@files
def test_ports_of_services_exist(file: str) -> None:
    objects = life(file, USUAL).objects
    all_pods = {pod.owner: pod for pod in pods(objects)}
    for name, service in named(objects, "Service").items():
        names = {p["name"] for p in all_pods[name].spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        assert [(p["name"], p["port"]) for p in service["spec"]["ports"]] == [("http", 8000)]


@files
def test_budget_never_blocks_a_drained_node(file: str) -> None:
    objects = life(file, USUAL).objects
    for name, budget in named(objects, "PodDisruptionBudget").items():
        # With an autoscaler that is its least: the objects are those of a first install.
        least = named(objects, "Deployment")[name]["spec"]["replicas"]
        spec = budget["spec"]
        if "minAvailable" in spec:
            assert least > int(spec["minAvailable"]) >= 1, name
        else:
            assert int(spec["maxUnavailable"]) >= 1, name


def test_everything_has_scalers_budgets_and_monitors() -> None:
    kinds = {i["kind"] for i in life(fleet.EVERYTHING, USUAL).objects}
    assert kinds >= {
        "HorizontalPodAutoscaler", "HTTPRoute", "Ingress", "NetworkPolicy", "PodDisruptionBudget",
        "PrometheusRule", "ScaledObject", "ServiceMonitor",
    }  # fmt: skip


@files
def test_monitors_find_their_services(file: str) -> None:
    objects = life(file, USUAL).objects
    for name, monitor in named(objects, "ServiceMonitor").items():
        spec = monitor["spec"]
        found = [
            service
            for service in named(objects, "Service").values()
            if matches(spec["selector"], service["metadata"]["labels"])
        ]
        assert found, name
        for endpoint in spec["endpoints"]:
            for service in found:
                assert endpoint["port"] in {p["name"] for p in service["spec"]["ports"]}, name


def test_every_alert_says_where_its_row_is() -> None:
    """docs/operations.md says of each alert what it means and what to do."""
    base = whole(fleet.EVERYTHING)["monitoring"]["rules"]["runbookUrl"]
    found = alerts(fleet.EVERYTHING)
    text = (fleet.ROOT / "docs/operations.md").read_text("utf-8")
    told = dict(re.findall(r'^\| <a id="(\w+)"></a>`(\w+)` \|', text, re.MULTILINE))
    assert told == {name.lower(): name for name in found}
    for name, alert in found.items():
        assert alert["annotations"]["runbook_url"] == f"{base}#{name.lower()}"


def test_alerts_have_no_runbook_where_nobody_says_where_it_is() -> None:
    found = alerts(fleet.H100)
    assert len(found) > 10
    assert all(alert["annotations"].keys() == {"summary"} for alert in found.values())


@files
def test_objects_carry_their_labels(file: str) -> None:
    for item in life(file, USUAL).everything:
        labels = item["metadata"].get("labels", {})
        name = f"{item['kind']} {item['metadata']['name']}"
        if name == "ConfigMap recto-extra":
            continue  # A user's own, of extraObjects.
        assert labels.get("app.kubernetes.io/name") == "recto", name
        assert labels.get("app.kubernetes.io/instance") == "recto", name
        assert {"app.kubernetes.io/version", "helm.sh/chart"} <= labels.keys(), name


@files
def test_changed_settings_make_new_pods_and_changed_routes_do_not(file: str) -> None:
    for pod in pods(life(file, USUAL).objects):
        if pod.component in ("embedded", "files", "ocr"):
            [owner] = [i for i in life(file, USUAL).objects if _is(i, pod.owner, pod.kind)]
            notes = owner["spec"]["template"]["metadata"]["annotations"]
            sums = {key.removeprefix("checksum/") for key in notes if key.startswith("checksum/")}
            assert sums == {"settings", "models"}


def test_embedded_is_one_pod_with_a_claim() -> None:
    objects = life(EMBEDDED, USUAL).objects
    [embedded] = named(objects, "StatefulSet").values()
    assert named(objects, "Deployment") == {}
    assert embedded["spec"]["replicas"] == 1
    [claim] = embedded["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"


def alerts(file: str) -> dict[str, Json]:
    """The alerts of a values file by name."""
    [rule] = named(life(file, USUAL).objects, "PrometheusRule").values()
    return {a["alert"]: a for group in rule["spec"]["groups"] for a in group["rules"]}


def _given(values: Json, key: str) -> set[str]:
    """Every value of a key, however deep."""
    found = set()
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _given(value, key)
        elif name == key and value:
            found.add(value)
    return found


def _is(item: Json, name: str, kind: str) -> bool:
    return item["metadata"]["name"] == name and item["kind"] == kind
