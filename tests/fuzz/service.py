"""The service that is fuzzed: the fake engine alone, and no way out."""

from __future__ import annotations

from pathlib import Path

from ocr_api.settings import Settings
from tests.conftest import ROOT


def echo_only(settings: Settings, folder: Path) -> Settings:
    """Return settings with no engine but the fake one, which is the default then."""
    models = folder / "models"
    models.mkdir()
    (models / "echo.yaml").write_bytes((ROOT / "configs" / "models" / "echo.yaml").read_bytes())
    routes = folder / "routes.yaml"
    routes.write_text("default: echo\n")
    facts = {"models_dir": models, "routes": routes, "fetch_allow": (), "fetch_seconds": 2.0}
    return settings.model_copy(update=facts)
