"""Each card reaches its vLLM server as it is written, and the API finds the server."""

from __future__ import annotations

import json

import pytest
import yaml

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart import fleet
from tests.chart.fleet import DISTRIBUTED, EMBEDDED, Json, life, named, servers, whole
from tests.chart.pods import Pod, pods
from tests.chart.rules import quantity
from tests.chart.schemas import USUAL

distributed = pytest.mark.parametrize("file", DISTRIBUTED)


def enabled(file: str, *, external: bool = False) -> dict[str, Json]:
    """The models that a values file has on, by stem: those the chart runs, or all."""
    models = {stem: own or {} for stem, own in whole(file)["models"].items()}
    return {
        stem: own
        for stem, own in models.items()
        if own.get("enabled", True) and (external or not own.get("external"))
    }


def model_pods(file: str) -> dict[str, Pod]:
    found = [pod for pod in pods(life(file, USUAL).objects) if pod.component == "vllm"]
    return {pod.labels["recto.dev/model"]: pod for pod in found}


def test_h100_runs_every_card_that_it_names() -> None:
    assert enabled(fleet.H100).keys() >= {"deepseek-ocr", "lighton-ocr-2", "glm-ocr"}


@distributed
def test_every_enabled_model_has_a_deployment_and_a_service(file: str) -> None:
    names = {f"{fleet.fullname(file)}-vllm-{stem}" for stem in enabled(file)}
    objects = life(file, USUAL).objects
    assert names
    assert {p.owner for p in model_pods(file).values()} == names
    for name in names:
        # Headless: its name stands for the address of every server, which the API shares out among.
        assert named(objects, "Service")[name]["spec"]["clusterIP"] == "None"


@distributed
def test_every_flag_of_a_card_reaches_its_server(file: str) -> None:
    for stem, pod in model_pods(file).items():
        [container] = pod.spec["containers"]
        own = enabled(file)[stem]
        said = [container["command"][-1], *container["args"]][1:]
        flags = servers()[stem]["args"]
        assert said[: len(flags)] == flags, stem
        more = ["--revision", own["revision"]] if own.get("revision") else []
        assert said[len(flags) :] == more + [str(arg) for arg in own.get("extraArgs", [])], stem


@distributed
def test_servers_with_our_guard_find_it(file: str) -> None:
    objects = life(file, USUAL).objects
    for stem, pod in model_pods(file).items():
        [container] = pod.spec["containers"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        assert ("PYTHONPATH" in env) is servers()[stem]["plugin"], stem
        if "PYTHONPATH" not in env:
            continue
        volumes = {v["name"]: v for v in pod.spec["volumes"]}
        settings = volumes[mounts[env["PYTHONPATH"]]]["configMap"]["name"]
        text = named(objects, "ConfigMap")[settings]["data"]["recto_ngram.py"]
        assert text.strip() == (fleet.ROOT / "configs/vllm/recto_ngram.py").read_text().strip()


@distributed
def test_api_knows_every_server(file: str) -> None:
    """RECTO_ENGINE_URLS names each enabled model by its card's id."""
    name = fleet.fullname(file)
    data = named(life(file, USUAL).objects, "ConfigMap")[f"{name}-settings"]["data"]
    urls = json.loads(data["RECTO_ENGINE_URLS"])
    models = enabled(file, external=True)
    assert urls.keys() == {servers()[stem]["card"] for stem in models}
    for stem in enabled(file):
        assert urls[servers()[stem]["card"]] == f"dns+http://{name}-vllm-{stem}:8000/v1"
    for stem in models.keys() - enabled(file).keys():
        assert urls[servers()[stem]["card"]] == models[stem]["external"]["urls"]


def test_embedded_has_no_servers() -> None:
    data = named(life(EMBEDDED, USUAL).objects, "ConfigMap")["recto-settings"]["data"]
    assert json.loads(data["RECTO_ENGINE_URLS"]) == {}


@distributed
def test_api_gets_every_card_as_it_is_written(file: str) -> None:
    data = named(life(file, USUAL).objects, "ConfigMap")[f"{fleet.fullname(file)}-models"]["data"]
    cards = {path.name: path for path in (fleet.ROOT / "configs/models").glob("*.yaml")}
    # One that reads nothing is for tests, and not served.
    assert data.keys() == cards.keys() - {"echo.yaml"}
    for name, text in data.items():
        assert yaml.safe_load(text) == yaml.safe_load(cards[name].read_text("utf-8")), name


@distributed
def test_routes_name_cards_that_are_served(file: str) -> None:
    data = named(life(file, USUAL).objects, "ConfigMap")[f"{fleet.fullname(file)}-routes"]["data"]
    routes = yaml.safe_load(data["routes.yaml"])
    urls = {servers()[s]["card"] for s in enabled(file, external=True)}
    assert routes["default"] in routes["routes"].keys() | urls | {"rapidocr"}
    for name, route in routes["routes"].items():
        for target in route["targets"] + route.get("shadow", []):
            assert target["card"] == "rapidocr" or target["urls"], name


@distributed
def test_server_has_its_gpu_and_shared_memory(file: str) -> None:
    values = whole(file)
    for stem, pod in model_pods(file).items():
        own = values["vllm"] | enabled(file)[stem]
        [container] = pod.spec["containers"]
        assert container["resources"]["limits"][own["gpuResource"]] == own["gpus"], stem
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        volumes = {v["name"]: v for v in pod.spec["volumes"]}
        shared = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shared["medium"] == "Memory"
        # What is written there counts against the container's memory.
        limit = quantity(container["resources"]["limits"]["memory"])
        assert quantity(shared["sizeLimit"]) < limit, stem


@distributed
def test_server_writes_to_volumes_only(file: str) -> None:
    """The root is read-only, so each cache lies below a mounted folder."""
    for stem, pod in model_pods(file).items():
        [container] = pod.spec["containers"]
        mounts = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        for name in ("HOME", "HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
            path = env[name]
            assert any(path == m or path.startswith(f"{m}/") for m in mounts), f"{stem} {name}"


@distributed
def test_downloaded_weights_need_no_hub(file: str) -> None:
    values = whole(file)
    jobs = {
        pod.labels["recto.dev/model"]
        for pod in pods(life(file, USUAL).everything)
        if pod.component == "weights"
    }
    for stem, pod in model_pods(file).items():
        own = values["vllm"] | enabled(file)[stem]
        env = {entry["name"]: entry.get("value") for entry in pod.spec["containers"][0]["env"]}
        assert (stem in jobs) is bool(own["download"].get("enabled")), stem
        local = own["download"].get("enabled") or own.get("offline")
        assert (env.get("HF_HUB_OFFLINE") == "1") is bool(local), stem


@distributed
def test_update_without_a_spare_gpu_ends_the_old_server_first(file: str) -> None:
    values = whole(file)
    for stem, pod in model_pods(file).items():
        own = values["vllm"] | enabled(file)[stem]
        strategy = named(life(file, USUAL).objects, "Deployment")[pod.owner]["spec"]["strategy"]
        spare = own["strategy"] == "surge"
        assert strategy["rollingUpdate"] == {
            "maxSurge": int(spare), "maxUnavailable": int(not spare)
        }, stem  # fmt: skip


@distributed
def test_scaler_asks_for_the_card_by_its_name(file: str) -> None:
    """vLLM's label is model_name, and its value the first served name; ours is model."""
    for name, scaler in named(life(file, USUAL).objects, "ScaledObject").items():
        stem = name.partition("-vllm-")[2]
        card = servers()[stem]["card"]
        assert servers()[stem]["names"][0] == card
        queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
        assert any(f'vllm:num_requests_waiting{{model_name="{card}"' in q for q in queries), name
        assert any(f'ocr_queue_pages_waiting{{model="{card}"' in q for q in queries), name
        assert all(query.startswith("sum(") for query in queries), name
        assert 1 <= scaler["spec"]["minReplicaCount"] <= scaler["spec"]["maxReplicaCount"]
