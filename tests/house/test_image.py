"""What can be said of the image without building it; `make test-image` executes its steps."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from tests.image.dockerfile import (
    Ignored,
    Instruction,
    Stage,
    Unknown,
    expanded,
    instructions,
    read,
)

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
FILE = read(TEXT)
FINAL: Stage = FILE.stages[-1]
IGNORED = Ignored((ROOT / ".dockerignore").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

BUILDS = r"\b(apt-get|apt|apk|dnf|pip|pip3|uv|gcc|g\+\+|cc|clang|make|cargo|curl|wget|git)\b"


def every() -> list[tuple[Stage, Instruction]]:
    """Return all instructions with their stages."""
    return [(stage, each) for stage in FILE.stages for each in stage.instructions]


def copied() -> list[str]:
    """Return the paths of the tree that the image is made of."""
    copies = [each for _, each in every() if each.name == "COPY" and "from" not in each.flags]
    return [name for each in copies for name in each.text.split()[:-1]]


def test_base_is_slim_and_pinned_to_a_minor_version() -> None:
    base = FILE.arguments["PYTHON_IMAGE"]
    version = re.fullmatch(r"python:3\.(\d+)-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert version, base
    assert int(version[1]) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    assert {stage.base for stage in FILE.stages} == {base}
    other = read(TEXT, {"PYTHON_IMAGE": "python:3.13-slim-bookworm"})
    assert {stage.base for stage in other.stages} == {"python:3.13-slim-bookworm"}


def test_no_address_and_no_host_is_named() -> None:
    for text in (TEXT, (ROOT / ".dockerignore").read_text("utf-8")):
        assert "://" not in text
    assert not re.search(r"index-url|trusted-host|find-links|--mount|# *syntax", TEXT)
    assert "ADD" not in {each.name for _, each in every()}


def test_final_stage_is_not_root() -> None:
    user, group = FINAL.last("USER").text.split(":")
    assert user == group == "10001"
    after = FINAL.instructions[list(FINAL.instructions).index(FINAL.last("USER")) + 1 :]
    assert not {"RUN", "COPY", "USER"} & {each.name for each in after}
    assert expanded(FINAL.last("WORKDIR").text, {}) == "/data"
    assert not [each for _, each in every() if each.name == "VOLUME"]


def test_final_stage_builds_nothing_and_downloads_nothing() -> None:
    (step,) = FINAL.all("RUN")
    words = re.sub(r"rm -rf .*?&&", "", step.text)  # what is removed of the base names pip
    assert not re.search(BUILDS, words)
    assert re.search(
        r"rm -rf \S+/ensurepip \S+/site-packages/pip\* /usr/local/bin/pip\*", step.text
    )
    (copy,) = FINAL.all("COPY")
    assert copy.flags == {"from": FILE.stages[0].name}
    assert copy.text.split() == ["/opt/recto", "/opt/recto"]


def test_every_download_is_held_to_its_hash() -> None:
    for _, each in every():
        if each.name != "RUN":
            continue
        for part in re.split(r"&&|;", each.text):
            if not re.search(r"\bpip\b.*\b(install|wheel|download)\b", part):
                continue
            locked = "--require-hashes" in part and re.search(r"-r \S+\.lock", part)
            assert locked or "--no-index" in part, part
            assert "--no-cache-dir" in part
    locks = re.findall(r"-r (\S+\.lock)", TEXT)
    assert locks == ["requirements-server.lock"]
    assert (ROOT / locks[0]).is_file()


def test_what_is_removed_is_what_only_the_build_needs() -> None:
    step = next(each.text for _, each in every() if " uninstall " in each.text)
    removed = step.partition(" uninstall ")[2].partition("&&")[0].replace("--yes", "").split()
    group = {re.split(r"[<>=~]", name)[0] for name in PROJECT["dependency-groups"]["build"]}
    assert group <= set(removed)
    lock = (ROOT / "requirements-server.lock").read_text("utf-8")
    assert [name for name in removed if f"\n{name}==" not in lock] == []


def test_copied_files_exist_and_are_not_ignored() -> None:
    names = copied()
    assert names
    for name in names:
        assert (ROOT / name).exists(), name
        assert not IGNORED(PurePosixPath(name)), name
    packed = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*packed["packages"], *packed["force-include"], "pyproject.toml"}
    wanted |= {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert wanted | {"requirements-server.lock"} == {name.removeprefix("./") for name in names}


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", "data/recto.db", "data/secret.key", ".venv/bin/python", ".env"),
        *(".venv-vllm/bin/vllm", "tests/conftest.py", "docs/design.md", "helm/values.yaml"),
        *("Dockerfile", "Makefile", "requirements-dev.lock", ".ci/run", "configs/.env.local"),
        *("ocr_api/__pycache__/app.cpython-311.pyc", "files_api/kit/__pycache__/x.pyc", "id_rsa"),
        *("configs/models/__pycache__/x.py", "files_api/.DS_Store", "dist/recto.whl"),
    ],
)
def test_stays_out_of_the_build(path: str) -> None:
    assert IGNORED(PurePosixPath(path))


@pytest.mark.parametrize(
    "path",
    ["ocr_api/app.py", "files_api/kit/db/postgres.py", "configs/models/x.yaml", "README.md"],
)
def test_goes_into_the_build(path: str) -> None:
    assert not IGNORED(PurePosixPath(path))


def test_only_what_is_copied_reaches_the_build() -> None:
    tops = {path.name for path in ROOT.iterdir() if not IGNORED(PurePosixPath(path.name))}
    assert tops == {PurePosixPath(name).parts[0] for name in copied()}


def test_starts_without_a_shell() -> None:
    """The exec form: signals reach Recto itself, which is process 1."""
    assert FINAL.last("ENTRYPOINT").exec_form() == ["recto"]
    assert "recto" in PROJECT["project"]["scripts"]
    command = FINAL.last("CMD").exec_form()
    assert command == ["serve", "--host", "0.0.0.0", "--port", "8000"]
    assert FINAL.last("EXPOSE").text == "8000"
    assert FINAL.last("STOPSIGNAL").text == "SIGTERM"


def test_health_is_asked_with_recto_itself() -> None:
    health = FINAL.last("HEALTHCHECK")
    found = re.search(r"CMD (\[.*\])$", health.text)
    assert found
    assert found[1] == '["recto", "health"]'
    assert health.flags.keys() == {"interval", "timeout", "start-period", "retries"}


def test_no_secret_is_baked_in() -> None:
    pairs = dict(FILE.arguments)
    for _, each in every():
        if each.name in {"ARG", "ENV", "LABEL"}:
            pairs |= each.pairs({})
    hidden = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|KEY|_URL$", re.IGNORECASE)
    assert [name for name in pairs if hidden.search(name)] == []
    env = {name: value for each in FINAL.all("ENV") for name, value in each.pairs({}).items()}
    assert env["PATH"].startswith("/opt/recto/bin:")
    assert env["RECTO_DATA_DIR"] == "/data"
    assert env["PYTHONDONTWRITEBYTECODE"] == env["PYTHONUNBUFFERED"] == "1"


def test_labels_say_what_it_is() -> None:
    given = {"VERSION": "1.2.3", "REVISION": "abc", "PYTHON_IMAGE": "python:3.12-slim-bookworm"}
    labels = FINAL.last("LABEL").pairs(given)
    named = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert named == {
        "title": PROJECT["project"]["name"],
        "description": "Self-hosted OCR service",
        "licenses": PROJECT["project"]["license"],
        "version": "1.2.3",
        "revision": "abc",
        "base.name": "python:3.12-slim-bookworm",
    }


def test_reader_refuses_what_it_does_not_know() -> None:
    for text in ("ADD a b", "RUN <<EOF", "FROM a\nRUN x \\", "RUN --privileged x", "ONBUILD RUN x"):
        with pytest.raises(Unknown):
            read(text)
    with pytest.raises(Unknown):
        expanded("${NAME:-x}", {})
    assert expanded("a$B${C}d", {"B": "1"}) == "a1d"
    joined = instructions("FROM a\n# c\nRUN x \\\n  # between\n  && y\n")
    assert [(each.line, each.name, each.text) for each in joined] == [
        (1, "FROM", "a"),
        (3, "RUN", "x && y"),
    ]


@pytest.mark.parametrize(
    ("lines", "path", "out"),
    [
        ("*\n!a", "b/c", True),
        ("*\n!a", "a/c", False),
        ("*\n!a\n**/*.py[co]", "a/b/c.pyc", True),
        ("*\n!a\n**/*.py[co]", "a/b/c.py", False),
        ("a/*", "a/b/c", True),
        ("*.md", "a/b.md", False),
        ("**/x", "x/y", True),
        ("# a\n\na?", "ab", True),
    ],
)
def test_ignore_lines_mean_what_docker_says(lines: str, path: str, out: bool) -> None:
    assert Ignored(lines)(PurePosixPath(path)) is out
