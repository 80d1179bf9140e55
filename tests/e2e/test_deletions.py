"""R21 where the files API and the OCR APIs are processes of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import postgres
from tests.e2e.conftest import make_key, run_recto, started
from tests.e2e.reading import SMALL, pdf, shared_settings, standin

pytestmark = pytest.mark.shared


def test_a_deletion_in_one_process_ends_the_reading_in_another(
    postgres_cluster: postgres.Cluster, tmp_path: Path
) -> None:
    """R21: the request is answered, and the model's server is told."""
    with postgres_cluster.database() as url, standin("--fault", "do=hang") as engine:
        settings = shared_settings(tmp_path, url, engine)
        run_recto(tmp_path, "db", "upgrade", **settings)
        headers = {"Authorization": f"Bearer {make_key(tmp_path, 'one', **settings)}"}
        for role in ("files", "ocr"):
            (tmp_path / role).mkdir()
        with (
            started(tmp_path / "files", ROLE="files", **settings) as files,
            started(tmp_path / "ocr", ROLE="ocr", **settings) as ocr,
            httpx.Client(headers=headers, timeout=60) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            kept = client.post(f"{files.base}/v1/files", files={"file": pdf("soon gone", 3)}).json()
            path = f"{ocr.base}/v1/files/{kept['id']}/ocr"
            reading = pool.submit(client.post, path, json={"model": SMALL})
            engine.until(lambda now: now["in_flight"] == 3)
            assert client.delete(f"{files.base}/v1/files/{kept['id']}").status_code == 200
            answer = reading.result()
            assert (answer.status_code, answer.json()["code"]) == (404, "file_not_found")
            assert engine.settled()["aborted"] == 3
