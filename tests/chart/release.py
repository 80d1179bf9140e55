"""Helm itself, the real library, at work on a fake cluster: install, upgrade, uninstall, lint."""

from __future__ import annotations

import asyncio
import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.chart.cluster import NAMESPACE, Cluster

# Before the library is loaded, for it reads the environment once: it is to touch no one's Helm
# settings, and to keep what it learns of our clusters to itself.
_HOME = tempfile.TemporaryDirectory(prefix="recto-chart-")
os.environ |= {
    "KUBECACHEDIR": f"{_HOME.name}/kube",
    "KUBECONFIG": f"{_HOME.name}/none",
    "HELM_CACHE_HOME": f"{_HOME.name}/cache",
    "HELM_CONFIG_HOME": f"{_HOME.name}/config",
    "HELM_DATA_HOME": f"{_HOME.name}/data",
}

import helm_sdkpy  # noqa: E402

Json = dict[str, Any]

DEADLINE = 20
"""Seconds that Helm waits for hooks and workloads; the fake cluster needs far less than one."""


class Failed(Exception):
    """Helm's own words for why a release failed."""


class Release:
    """A release of one name on a cluster."""

    def __init__(self, cluster: Cluster, chart: Path, name: str = "recto") -> None:
        self.cluster, self.chart, self.name = cluster, chart, name
        self._config = helm_sdkpy.Configuration(NAMESPACE, _kubeconfig(cluster.address))

    def install(self, values: Json | None = None, *, server_side: bool = False) -> None:
        """`helm install --wait`.

        Raises:
            Failed: whatever Helm says.
        """
        action = helm_sdkpy.Install(self._config)
        self._run(
            action.run(
                self.name,
                str(self.chart),
                values or {},
                timeout=DEADLINE,
                wait_for_jobs=False,
                server_side_apply=server_side,
                disable_openapi_validation=False,
            )
        )

    def upgrade(self, values: Json | None = None) -> None:
        """`helm upgrade --wait`.

        Raises:
            Failed: whatever Helm says.
        """
        action = helm_sdkpy.Upgrade(self._config)
        self._run(
            action.run(
                self.name,
                str(self.chart),
                values or {},
                timeout=DEADLINE,
                disable_openapi_validation=False,
            )
        )

    def uninstall(self) -> None:
        """`helm uninstall --wait`.

        Raises:
            Failed: whatever Helm says.
        """
        self._run(helm_sdkpy.Uninstall(self._config).run(self.name, timeout=DEADLINE))

    def lint(self) -> Json:
        """`helm lint` with the chart's own values: its summary.

        Raises:
            Failed: whatever Helm says.
        """
        found: Json = self._run(helm_sdkpy.Lint(self._config).run(str(self.chart)))
        return found

    @staticmethod
    def _run(action: Any) -> Any:
        try:
            return asyncio.run(action)
        except helm_sdkpy.HelmError as wrong:
            raise Failed(str(wrong)) from wrong


def values(file: Path | None, **changes: object) -> Json:
    """The values of a file with some changed, as by `--set`; `__` stands for the dots in a name.

    `values(None, ocr__replicas=3)` is {"ocr": {"replicas": 3}}.
    """
    found: Json = copy.deepcopy(yaml.safe_load(file.read_text("utf-8")) or {}) if file else {}
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = found
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return found


def _kubeconfig(address: str) -> str:
    """A kubeconfig as YAML text; its one user needs no password."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": address}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [
                {
                    "name": "fake",
                    "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE},
                }
            ],
            "current-context": "fake",
        }
    )
