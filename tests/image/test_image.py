"""What lies in the image: the service and what it needs, compiled, and nothing to build with."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.image.conftest import Image

MIB = 1 << 20
MOST_BYTES = 520 * MIB
"""Of /opt/recto: 450 MiB on 2026-11-22, of which OpenCV takes 137, onnxruntime 68, numpy 56."""

TOOLS = {
    *("apt-get-source", "as", "c++", "cargo", "cc", "clang", "cmake", "cpp", "g++", "gcc", "ld"),
    *("ccache", "make", "meson", "ninja", "rustc", "uv", "pip", "pip3", "hatch", "hatchling"),
    *("pytest", "git", "curl", "wget"),
}

CLOSURE = """
import json, re
from importlib import metadata

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

def extras(text):
    return set(re.findall(r"[\\w-]+", text or ""))

found = {plain(each.name): each for each in metadata.distributions()}
everything = set(found["recto"].metadata.get_all("Provides-Extra") or ())
wanted, seen = [("recto", everything)], set()
while wanted:
    name, chosen = wanted.pop()
    seen.add(name)
    for line in found[name].requires or ():
        other, theirs, marker = re.match(r"([\\w.-]+)(?:\\[(.*?)\\])?([^;]*;.*)?", line).groups()
        extra = re.search(r"extra == ['\\"]([\\w-]+)", marker or "")
        if plain(other) in set(found) - seen and (extra is None or extra[1] in chosen):
            wanted.append((plain(other), extras(theirs)))
print(json.dumps([sorted(found), sorted(seen)]))
"""
"""What is installed, and what the service requires of it, with all its extras."""


def files(folder: Path) -> Iterator[Path]:
    """Yield all files and links below a folder."""
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            yield path


def test_the_service_is_small_enough(image: Image) -> None:
    size = sum(path.lstat().st_size for path in files(image.root / "opt"))
    print(f"/opt/recto: {size / MIB:.0f} MiB")
    assert size < MOST_BYTES
    assert [path.name for path in (image.root / "opt").iterdir()] == ["recto"]


def test_nothing_to_build_with_is_there(image: Image) -> None:
    folders = ("opt/recto/bin", "usr/local/bin", "usr/bin", "bin", "usr/sbin", "sbin")
    programs = {path.name for folder in folders for path in (image.root / folder).glob("*")}
    assert "recto" in programs
    assert not programs & TOOLS
    assert not list((image.root / "opt").rglob("*/include/*.h"))


def test_installed_is_what_the_service_requires(image: Image, data: Path) -> None:
    installed, required = json.loads(image.once(data, "python", "-c", CLOSURE))
    assert installed == required
    assert {"recto", "rapidocr", "asyncpg", "obstore", "uvicorn"} <= set(installed)
    unwanted = {"pip", "setuptools", "hatchling", "torch", "transformers", "vllm", "pytest"}
    assert not unwanted & set(installed)
    refused = image.once(
        data, "python", "-c", "from importlib.util import find_spec as f\n"
        "print([f(n) for n in ('pip', 'ensurepip', 'torch', 'pytest', 'tests')])",
    )  # fmt: skip
    assert refused.strip() == "[None, None, None, None, None]"


def test_libraries_find_what_they_are_linked_with(image: Image) -> None:
    """The base has the C library, C++'s and little more; what OpenCV needs came in its wheel.

    Libraries of a wheel's `.libs` folder are found by those that load them.
    """
    libraries = [
        f"/{path.relative_to(image.root)}"
        for path in files(image.root / "opt")
        if ".so" in path.name and not path.parent.name.endswith(".libs")
    ]
    done = subprocess.run(
        ["chroot", image.root, "ldd", *libraries],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert len(libraries) > 50
    assert "not found" not in done.stdout


def test_bytecode_is_there_and_never_compared_with_times(image: Image) -> None:
    """Else every process compiles what it imports, at each start: nothing is writable."""
    without, stale = [], []
    for path in (image.root / "opt").rglob("*.py"):
        made = list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-3??.pyc"))
        if not made:
            without.append(path)
        elif made[0].read_bytes()[4:8] != b"\x01\0\0\0":  # PEP 552: a hash that is not checked
            stale.append(path)
    assert without == stale == []


def test_nobody_but_root_may_change_the_service(image: Image) -> None:
    for path in (image.root / "opt").rglob("*"):
        state = path.lstat()
        assert (state.st_uid, state.st_gid) == (0, 0), path
        if not path.is_symlink():
            assert not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
            assert state.st_mode & stat.S_IROTH, path
    ours = (image.root / "data").stat()
    assert (ours.st_uid, ours.st_gid, stat.S_IMODE(ours.st_mode)) == (10001, 10001, 0o750)
    assert "recto:x:10001:10001:" in (image.root / "etc/passwd").read_text()


def test_nothing_of_the_tree_came_along_by_chance(image: Image) -> None:
    inside = next((image.root / "opt/recto/lib").glob("python3*/site-packages"))
    for package in ("ocr_api", "files_api", "model_registry"):
        assert (inside / package / "__init__.py").exists() or list((inside / package).glob("*.py"))
    assert list((inside / "model_registry/configs/models").glob("*.yaml"))
    assert (inside / "model_registry/configs/routes.yaml").exists()
    names = {path.name for path in inside.rglob("*")}
    assert not names & {"tests", "docs", "helm", ".git", "Dockerfile", "recto.db", "secret.key"}
    assert not list((image.root / "tmp").iterdir())
    assert not (image.root / "root/.cache").exists()
