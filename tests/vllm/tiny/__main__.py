"""Write the model folders: ``python -m tests.vllm.tiny FOLDER``, in the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.vllm.tiny.folders import FAMILIES, write

if __name__ == "__main__":
    for name in FAMILIES:
        print(write(name, Path(sys.argv[1])))
