"""The real chart with each of its values files, installed once per version for all assertions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.chart.cluster import Cluster
from tests.chart.door import serving
from tests.chart.release import Failed, Release, values

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
EMBEDDED, H100 = "values.yaml", "values-h100.yaml"
ONE_GPU, EVERYTHING = "ci/single-gpu-values.yaml", "ci/everything-values.yaml"
FILES = tuple(
    path.relative_to(CHART).as_posix()
    for path in sorted([*CHART.glob("values*.yaml"), *CHART.glob("ci/*-values.yaml")])
)
DISTRIBUTED = tuple(name for name in FILES if name != EMBEDDED)

NEXT = "9.9.9-next"
"""The tag of the API's image that every upgrade here goes to."""


@dataclass
class Life:
    """A release from its install to its end; `objects` are those that Helm itself keeps."""

    installed: list[Json] = field(default_factory=list)
    upgraded: list[Json] = field(default_factory=list)
    left: list[Json] = field(default_factory=list)
    hooks: list[Json] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def objects(self) -> list[Json]:
        """What stood after the install.

        Raises:
            AssertionError: it failed; with Helm's words.
        """
        assert not self.error, self.error
        return self.installed

    @property
    def everything(self) -> list[Json]:
        """The same with the Jobs of hooks, which are gone by then."""
        return self.objects + self.hooks


@functools.cache
def life(file: str, version: str) -> Life:
    """Install, upgrade to another image, uninstall."""
    life = Life()
    with serving(Cluster(version)) as cluster:
        release = Release(cluster, CHART)
        try:
            release.install(own(file))
            life.installed = cluster.all()
            release.upgrade(own(file, image__tag=NEXT))
            life.upgraded = cluster.all()
            release.uninstall()
            life.left = cluster.all()
        except Failed as failed:
            life.error = f"{file} on {version}: {failed}"
        life.log = cluster.did()
        life.hooks = list(
            {
                item["metadata"]["name"]: item
                for event, item in cluster.history
                if event == "ADDED" and "helm.sh/hook" in item["metadata"].get("annotations", {})
            }.values()
        )
    return life


def own(file: str, **changes: object) -> Json:
    """The values of a file of the chart, and changes; the chart's own are Helm's to add."""
    return values(None if file == EMBEDDED else CHART / file, **changes)


@functools.cache
def whole(file: str) -> Json:
    """A file's values over the chart's own, as a template sees them."""
    return _over(values(CHART / EMBEDDED), own(file))


def _over(under: Json, over: Json) -> Json:
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _over(old, value) if both else value
    return result


def fullname(file: str) -> str:
    """What the names of a file's objects begin with."""
    return str(whole(file)["fullnameOverride"] or "recto")


@functools.cache
def servers() -> dict[str, Json]:
    """The vLLM servers by stem, as the chart's copy of the cards says."""
    loaded: dict[str, Json] = yaml.safe_load((CHART / "files/servers.yaml").read_text("utf-8"))
    return loaded


def named(objects: list[Json], kind: str) -> dict[str, Json]:
    """The objects of a kind by name."""
    return {i["metadata"]["name"]: i for i in objects if i["kind"] == kind}
