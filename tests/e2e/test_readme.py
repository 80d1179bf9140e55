"""Every snippet of the README runs, against a live server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```(python|bash)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(command: list[str], code: str) -> str:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, code],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "code"), SNIPPETS, ids=[code[:40] for _, code in SNIPPETS])
def test_snippet(server: Server, language: str, code: str) -> None:
    code = code.replace("http://127.0.0.1:8000", server.base).replace(".venv/bin/", "")
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    printed = run(command, code)
    assert "Annual Meeting" in printed or "library" in printed.lower(), printed
    assert '"error"' not in printed.replace('"error":null', "")


def test_there_are_snippets_for_each_client() -> None:
    text = "".join(code for _, code in SNIPPETS)
    assert all(word in text for word in ("Mistral(", "OpenAI(", "curl", "recto read"))


def test_the_line_that_the_server_prints_works(server: Server) -> None:
    line = server.banner.splitlines()[2].strip()
    assert line.startswith("curl ")
    assert '"pages_processed":1' in run(["bash", "-c"], line)
