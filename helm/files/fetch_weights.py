"""Fetches a model's weights into the hub's cache, and leaves a mark when they are whole.

The chart's Job runs it with vLLM's image; servers wait for the mark and then need no hub. Why every
file: without a network the hub's library refuses a copy of which one is missing, needed or not.
"""

import os
from pathlib import Path

from huggingface_hub import snapshot_download

marker = Path(os.environ["RECTO_MARKER"])
if not marker.exists():
    snapshot_download(os.environ["RECTO_MODEL"], revision=os.environ["RECTO_REVISION"] or None)
    marker.touch()
