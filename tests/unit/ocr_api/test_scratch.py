"""Scratch folders: one per process, gone with it, and nobody else's business while it lives."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from ocr_api.app import Workshop
from ocr_api.engines.echo import Echo
from ocr_api.offline import NoFiles, forget
from ocr_api.scratch import Scratch
from ocr_api.settings import Settings

OTHER = """
import sys, time
from pathlib import Path
from ocr_api.scratch import Scratch
with Scratch(Path(sys.argv[1])) as folder:
    (folder / "document").write_bytes(b"being read")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_there_while_it_is_open(tmp_path: Path) -> None:
    root = tmp_path / "data" / "scratch"
    scratch = Scratch(root)
    assert not root.exists()
    with scratch as folder:
        assert folder == scratch.path
        assert folder.parent == root
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "left").write_bytes(b"x")
        with Scratch(root) as other:
            assert other != folder
            assert (folder / "left").read_bytes() == b"x"
        assert not other.exists()
    assert list(root.iterdir()) == []


def test_a_living_process_keeps_its_folder_and_a_dead_one_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with Scratch(tmp_path):
            assert (folder / "document").read_bytes() == b"being read"
        process.kill()
    assert (folder / "document").exists()
    with Scratch(tmp_path):
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_scratch_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "note.txt").write_text("x")
    with Scratch(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "note.txt"}


async def test_two_workshops_share_a_data_folder(settings: Settings) -> None:
    async with Workshop(settings, NoFiles(), forget) as one:
        document = one._scratch.path / "recto-document"
        document.write_bytes(b"being read")
        async with Workshop(settings, NoFiles(), forget):
            assert document.exists()
        assert document.exists()
    assert list((settings.data_dir / "scratch").iterdir()) == []


async def test_a_workshop_that_cannot_start_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(engine: Echo) -> None:
        raise ValueError("no licence")

    monkeypatch.setattr(Echo, "start", fail)
    with pytest.raises(ValueError, match="no licence"):
        async with Workshop(settings, NoFiles(), forget):
            raise AssertionError
    assert list((settings.data_dir / "scratch").iterdir()) == []


async def test_a_workshop_has_a_drawing_child_before_the_first_page(settings: Settings) -> None:
    async with Workshop(settings, NoFiles(), forget) as workshop:
        assert workshop.pages._warming is not None
        await asyncio.wait({workshop.pages._warming})
        assert len(workshop.pages._pool._idle) == 1


async def test_a_workshop_starts_although_no_child_can(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    async with Workshop(settings, NoFiles(), forget) as workshop:
        assert workshop.pages._warming is not None
        await asyncio.wait({workshop.pages._warming})
        problem = workshop.pages.problem()
        assert problem is not None
        assert "cannot start a child" in problem
