"""Start of a child: ``python -m ocr_api.processes ENTRY MEMORY_BYTES``."""

import sys

from ocr_api.processes.child import serve

if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
