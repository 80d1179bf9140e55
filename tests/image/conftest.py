"""The image, built once for all tests here: see ``build.py`` for what stands in for what."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image import rooms
from tests.image.build import Build
from tests.image.dockerfile import read

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / ".venv-image"

# Read here, because each test begins with an environment that is clean of our variables.
NEEDED = bool(os.environ.get("RECTO_TEST_NEEDS_IMAGE"))


@dataclass(frozen=True)
class Image:
    """The last stage's root, and how its container runs."""

    root: Path
    config: rooms.Config

    def once(self, data: Path, *command: str) -> str:
        """Run a command instead of the entry point; return its standard output."""
        return rooms.once(self.root, data, self.config, *command, entry=()).stdout


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """The image; skipped, or failed with ``RECTO_TEST_NEEDS_IMAGE=1``, where it cannot be made."""
    missing = None if (BASE / "wheels" / ".lock").exists() else "make test-image makes the base"
    if reason := rooms.why_not() or missing:
        assert not NEEDED, reason
        pytest.skip(reason)
    # Not pytest's folder, which is kept: a root takes 700 MB.
    folder = Path(tempfile.mkdtemp(prefix="recto-image-"))
    try:
        file = read((ROOT / "Dockerfile").read_text("utf-8"))
        arguments = {"VERSION": "0.1.0", "REVISION": "test"}
        yield Image(*Build(file, ROOT, BASE, folder).image(arguments))
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty data folder of the container's user, as a volume is."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, rooms.UID, rooms.UID)
    return folder
