"""rapidocr as anybody would call it, in a child of its own: the yardstick."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import cv2
import numpy as np
from rapidocr import RapidOCR


@cache
def _engine() -> Any:
    return RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.log_level": "critical",
            "Rec.rec_batch_num": 1,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def read(header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the texts of a JPEG as a JSON list, in the engine's own order."""
    image = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
    return {}, json.dumps(list(_engine()(image).txts or ())).encode()
