"""The house rules that no linter knows: sizes, docstrings, one library one home, names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("model_registry", "files_api", "ocr_api")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

HOMES = {
    "aiohttp": ("ocr_api/outbound/", "ocr_api/engines/vllm/"),
    "asyncpg": ("files_api/kit/db/postgres.py",),
    "alembic": ("ocr_api/migrations/",),
    "cv2": ("ocr_api/engines/rapidocr",),
    "jsonschema": ("ocr_api/annotate/",),
    "jsonschema_specifications": ("ocr_api/annotate/",),
    "referencing": ("ocr_api/annotate/",),
    "fastapi": (
        "ocr_api/apis/",
        "ocr_api/app.py",
        "files_api/app.py",
        "files_api/callers.py",
        "files_api/kit/bodies.py",
        "files_api/kit/web.py",
        "files_api/routes",
    ),
    "fastapi_swagger": ("ocr_api/app.py",),
    "obstore": ("files_api/blobs/s3",),
    "httptools": ("ocr_api/listening/",),
    "opentelemetry": ("files_api/kit/traces.py",),
    "onnxruntime": ("ocr_api/engines/rapidocr",),
    "PIL": ("ocr_api/pages/",),
    "prometheus_client": ("files_api/kit/metrics.py", "ocr_api/meters.py"),
    "pypdfium2": ("ocr_api/pages/",),
    "python_multipart": ("files_api/kit/multipart.py",),
    "rapidocr": ("ocr_api/engines/rapidocr",),
    "sqlalchemy": (
        "files_api/kit/db/",
        "files_api/tables.py",
        "files_api/accounts.py",
        "files_api/files/",
        "files_api/idempotency.py",
        "files_api/keys.py",
        "files_api/quota.py",
        "files_api/uploads/",
        "ocr_api/usage",
        "ocr_api/ledger/rows.py",
        "ocr_api/migrations/",
    ),
    "uvicorn": ("ocr_api/cli/serving.py", "ocr_api/listening/"),
    "yaml": ("model_registry/card.py", "model_registry/routing.py"),
}
"""Each heavy library has one home, so that it can be replaced, or left out of an image."""


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_is_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert ast.get_docstring(tree)
    long = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in _functions(tree)
        if (node.end_lineno or 0) - node.lineno + 1 > 60
    }
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_library_is_imported_at_home_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots = {(node.module or "").split(".")[0]}
        else:
            continue
        for root in roots & HOMES.keys():
            assert _name(path).startswith(HOMES[root]), f"{root} is not at home in {_name(path)}"


def test_importing_the_service_loads_no_engine_library() -> None:
    """The API process stays light: engines load their libraries in processes of their own."""
    code = (
        "import sys, ocr_api.app, ocr_api.cli.serving, ocr_api.cli.tasks;"
        "from files_api.kit import named;"
        "from ocr_api.engines import Engine;"
        "[named.leaf('ocr_api.engines', n, Engine) for n in named.names('ocr_api.engines')];"
        "print(sorted({'cv2','onnxruntime','rapidocr','torch','transformers','vllm','numpy',"
        "'pypdfium2','PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_asking_for_health_loads_next_to_nothing() -> None:
    """A container is asked twice a minute, for as long as it lives."""
    code = (
        "import sys; from ocr_api.cli import main; from contextlib import suppress\n"
        "with suppress(SystemExit): main(['health', '--port', '1'])\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "recto: No answer from 127.0.0.1, port 1" in done.stderr
    loaded = set(done.stdout.split())
    assert "ocr_api.cli.health" in loaded
    assert not loaded & {"fastapi", "sqlalchemy", "pydantic", "aiohttp", "ocr_api.settings"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_named_imports_by_name(path: Path) -> None:
    if _name(path) == "files_api/kit/named.py":
        return
    assert "importlib.import_module" not in path.read_text("utf-8")


def test_lock_holds_hashes_and_no_address() -> None:
    for name in ("requirements.lock", "requirements-server.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text("utf-8")
        assert "://" not in text
        assert text.count("--hash=sha256:") > text.count("==")
    runtime = (ROOT / "requirements.lock").read_text("utf-8")
    for heavy in ("torch", "transformers", "vllm"):
        assert f"\n{heavy}==" not in runtime
