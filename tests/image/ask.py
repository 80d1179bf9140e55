"""Asks the server beside it, with nothing but the standard library: run in the image by `python`.

The arguments: a key's file, a document, a page. Prints the page's markdown.
"""

import base64
import json
import sys
import urllib.request
from pathlib import Path

key, document, page = sys.argv[1:]
url = "data:application/pdf;base64," + base64.b64encode(Path(document).read_bytes()).decode()
body = {"document": {"type": "document_url", "document_url": url}, "pages": [int(page)]}
request = urllib.request.Request(
    "http://127.0.0.1:8000/v1/ocr",
    json.dumps({"model": "rapidocr", **body}).encode(),
    {
        "Authorization": "Bearer " + Path(key).read_text("utf-8").strip(),
        "Content-Type": "application/json",
    },
)
with urllib.request.urlopen(request, timeout=100) as answer:
    print(json.load(answer)["pages"][0]["markdown"])
