"""`python -m ocr_api.cli` is the command `recto`."""

from ocr_api.cli import main

if __name__ == "__main__":
    main()
