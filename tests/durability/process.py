"""A real server process that is killed and started again on the same data."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Recto:
    """`recto serve` with the fake engine alone, so that it starts in a second."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """Take an empty folder, and settings in capitals; start nothing."""
        self.data = folder / "data"
        self.log = folder / "log.jsonl"
        self.base = ""
        """http://127.0.0.1:PORT; another port after each start."""
        models = folder / "models"
        models.mkdir(parents=True)
        shutil.copy(ROOT / "configs" / "models" / "echo.yaml", models)
        (folder / "routes.yaml").write_text("default: echo\n")
        ours = {
            "DATA_DIR": str(self.data),
            "MODELS_DIR": str(models),
            "ROUTES": str(folder / "routes.yaml"),
            "SHOW_HIDDEN_MODELS": "true",
            "RENDER_PROCESSES": "1",
            "MAX_ORG_UPLOADS": "64",
            **settings,
        }
        rest = {name: value for name, value in os.environ.items() if not name.startswith("RECTO_")}
        self._env = rest | {f"RECTO_{name}": value for name, value in ours.items()}
        self._process: subprocess.Popen[str] | None = None

    def upgrade(self) -> None:
        """Bring the database to the newest revision, as an operator does."""
        command = [sys.executable, "-m", "ocr_api.cli", "db", "upgrade"]
        subprocess.run(command, env=self._env, cwd=ROOT, check=True, capture_output=True)

    def spawn(self) -> None:
        """Start the process; do not wait until it serves."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0"],
                env=self._env,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.spawn()
        assert self._process
        assert self._process.stdout
        found = re.search(r"http://127\.0\.0\.1:\d+", self._process.stdout.readline())
        assert found, self.log.read_text()[-2000:]
        self.base = found[0]

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, as a power cut would: no handler runs."""
        assert self._end(signal.SIGKILL) == -signal.SIGKILL

    def stop(self) -> None:
        """End the process in order."""
        # uvicorn ends in order, then dies of the signal it was sent.
        assert self._end(signal.SIGTERM) == -signal.SIGTERM

    def close(self) -> None:
        """End the process if it still runs; for the end of a test that failed."""
        if self._process:
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        assert self._process
        process, self._process = self._process, None
        with process:
            process.send_signal(number)
            return process.wait(40)
