"""Routes that a pod would refuse at its start are refused by the install, with what to do."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import yaml

pytest.importorskip("helm_sdkpy", reason="the chart's tests have an environment of their own")

from tests.chart.cluster import Cluster
from tests.chart.door import serving
from tests.chart.fleet import CHART, EMBEDDED, H100, ONE_GPU, Json, named, own
from tests.chart.release import Failed, Release
from tests.chart.schemas import USUAL

DEEPSEEK, GLM, LIGHTON = (
    "deepseek-ai/DeepSeek-OCR",
    "zai-org/GLM-OCR",
    "lightonai/LightOnOCR-2-1B",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One for all: what is refused changes nothing in it."""
    with serving(Cluster(USUAL)) as one:
        yield one


def to(*targets: Json, **more: object) -> Json:
    """Routes of which one is called `ours`."""
    return {"ours": {"targets": list(targets), **more}}


REFUSED: list[tuple[str, Json, str]] = [
    # What nothing runs.
    (
        H100,
        {"models__deepseek-ocr": {"enabled": False}},
        (
            "routes.routes.our-ocr: nothing here runs the card deepseek-ai/DeepSeek-OCR: "
            "enable models.deepseek-ocr, or give the target urls"
        ),
    ),
    (
        H100,
        {"models__glm-ocr": {"enabled": False}},
        "routes.annotator: nothing here runs the card zai-org/GLM-OCR: enable models.glm-ocr",
    ),
    (
        ONE_GPU,
        {"models__glm-ocr": {"enabled": False}},
        "routes.default: nothing here runs the card zai-org/GLM-OCR: enable models.glm-ocr",
    ),
    (
        ONE_GPU,
        {"routes__routes": to({"card": GLM}, shadow=[{"card": LIGHTON, "share": 0.1}])},
        (
            "routes.routes.ours: nothing here runs the card lightonai/LightOnOCR-2-1B: "
            "enable models.lighton-ocr-2, or give the shadow urls"
        ),
    ),
    (
        EMBEDDED,
        {"routes__aliases": {"ocr": GLM}},
        "routes.aliases.ocr: nothing here runs the card zai-org/GLM-OCR: enable models.glm-ocr",
    ),
    # What nothing is called.
    (
        ONE_GPU,
        {"routes__routes": to({"card": "glm-ocr"})},
        "routes.routes.ours: glm-ocr is no id of a card: did you mean zai-org/GLM-OCR?",
    ),
    (
        ONE_GPU,
        {"routes__routes": to({"card": "ZAI-org/glm-ocr"})},
        "ZAI-org/glm-ocr is no id of a card: did you mean zai-org/GLM-OCR?",
    ),
    (
        ONE_GPU,
        {"routes__routes": to({"card": "gpt", "urls": ["http://a:8000/v1"]})},
        "routes.routes.ours: there is no card gpt; there are: Qwen/Qwen3-VL-4B-Instruct, ",
    ),
    (
        ONE_GPU,
        {"routes__default": "lighton-ocr-2"},
        (
            "routes.default: there is no model or route lighton-ocr-2: "
            "did you mean lightonai/LightOnOCR-2-1B?"
        ),
    ),
    (ONE_GPU, {"routes__default": "our-ocr"}, "routes.default: there is no model or route our-ocr"),
    (
        ONE_GPU,
        {"routes__annotator": "mistral-ocr-latest"},
        "routes.annotator: there is no model or route mistral-ocr-latest",
    ),
    # What cannot do it, or has two meanings.
    (EMBEDDED, {"routes__annotator": "rapidocr"}, "routes.annotator: rapidocr cannot annotate"),
    (
        ONE_GPU,
        {"routes__routes": to({"card": "rapidocr"}, {"card": GLM}), "routes__annotator": "ours"},
        "routes.annotator: rapidocr cannot annotate",
    ),
    (
        EMBEDDED,
        {"routes__routes": to({"card": "rapidocr", "urls": ["http://a:8000/v1"]})},
        "routes.routes.ours: rapidocr runs inside Recto and takes no urls",
    ),
    (
        ONE_GPU,
        {"routes__routes": {GLM: {"targets": [{"card": "rapidocr"}]}}},
        f"routes.routes.{GLM}: models.glm-ocr answers by this name",
    ),
    (
        ONE_GPU,
        {"routes__routes": {"glm-ocr": {"targets": [{"card": "rapidocr"}]}}},
        "routes.routes.glm-ocr: the card zai-org/GLM-OCR has this alias",
    ),
    (
        ONE_GPU,
        {"routes__aliases": {"rapidocr": GLM}},
        "routes.aliases.rapidocr: this is a name of rapidocr already",
    ),
    (
        ONE_GPU,
        {"routes__aliases": {"default": GLM}},
        "routes.aliases.default: the name default is reserved",
    ),
    (
        ONE_GPU,
        {"routes__routes": to({"card": GLM, "weight": 0})},
        "routes.routes.ours: the weights are all 0",
    ),
    (
        ONE_GPU,
        {"routes__routes": to({"card": GLM}, fallback={"errors": 0.5})},
        "routes.routes.ours: fallback needs another target that has a weight",
    ),
]
"""Values, what is changed, and Helm's words."""

ELSEWHERE = {"urls": ["https://ds.example.org/v1"]}
TAKEN: list[tuple[str, Json]] = [
    (EMBEDDED, {"models__glm-ocr": {"external": ELSEWHERE}, "routes__default": "glm-ocr"}),
    (EMBEDDED, {"routes__routes": to({"card": DEEPSEEK, **ELSEWHERE}), "routes__default": "ours"}),
    (
        EMBEDDED,
        {"routes__routes": to({"card": DEEPSEEK, **ELSEWHERE}), "routes__annotator": "ours"},
    ),
    (EMBEDDED, {"routes__routes": {"gone": None}, "routes__aliases": {"gone": None}}),
    (ONE_GPU, {"routes__default": "glm-ocr", "routes__annotator": GLM}),
    (ONE_GPU, {"routes__aliases": {"glm-ocr": GLM, "ocr": "default", "cpu": "rapidocr"}}),
    # Cards of one's own: the chart cannot know them.
    (
        EMBEDDED,
        {
            "routes__default": "mine",
            "pod__extraEnv": [{"name": "RECTO_MODELS_DIR", "value": "/models"}],
        },
    ),
]


@pytest.mark.parametrize(("file", "changes", "said"), REFUSED)
def test_routes_that_no_pod_would_start_with_are_refused(
    file: str, changes: Json, said: str, cluster: Cluster
) -> None:
    before = len(cluster.log)
    with pytest.raises(Failed) as failed:
        Release(cluster, CHART).install(own(file, **copy.deepcopy(changes)))
    assert said in str(failed.value)
    assert len(cluster.log) == before


@pytest.mark.parametrize(("file", "changes"), TAKEN)
def test_right_routes_are_taken(file: str, changes: Json) -> None:
    with serving(Cluster(USUAL)) as cluster:
        Release(cluster, CHART).install(own(file, **copy.deepcopy(changes)))
        maps = named(cluster.all(), "ConfigMap")
    table = yaml.safe_load(maps["recto-routes"]["data"]["routes.yaml"])
    assert "gone" not in {*table["routes"], *table["aliases"]}


def test_every_problem_is_told_at_once(cluster: Cluster) -> None:
    changes = {"models__deepseek-ocr": {"enabled": False}, "models__glm-ocr": {"enabled": False}}
    with pytest.raises(Failed, match=r"our-ocr: nothing here runs.*\n.*annotator: nothing here"):
        Release(cluster, CHART).install(own(H100, **changes))
