"""A stand-in for ``vllm``: takes ``serve MODEL`` and its arguments, and answers as vLLM does.

Files in the folder that STANDIN names tell it what to do: ``closed``: it is not ready yet;
``other``: it serves something else;
``broken``: it ends with code 3 at once; ``deaf``: it ignores SIGTERM; ``litter``, a named pipe: it
leaves a process behind that ignores SIGTERM too and holds the pipe open.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ORDERS = Path(os.environ["STANDIN"])
WORDS = sys.argv[1:]


def values(flag: str) -> list[str]:
    """Return what follows a flag, up to the next one."""
    found = []
    for word in WORDS[WORDS.index(flag) + 1 :]:
        if word.startswith("--"):
            break
        found.append(word)
    return found


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            print("told to die", flush=True)
            os._exit(7)
        if self.path == "/hold":
            self.rfile.read(1)  # until the other end closes, or we are gone
        if self.path == "/facts":
            self.answer(200, {"words": WORDS, "environment": dict(os.environ), "pid": os.getpid()})
        else:
            names = ["other"] if (ORDERS / "other").exists() else values("--served-model-name")
            models = {"object": "list", "data": [{"id": name} for name in names]}
            self.answer(503 if (ORDERS / "closed").exists() else 200, models)

    def answer(self, status: int, facts: object) -> None:
        body = json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing for each request."""


def main() -> None:
    assert WORDS[0] == "serve"
    print(f"loading {WORDS[1]}", flush=True)
    if (ORDERS / "broken").exists():
        print("no such weights", file=sys.stderr, flush=True)
        raise SystemExit(3)
    server = ThreadingHTTPServer((values("--host")[0], int(values("--port")[0])), Handler)
    if (ORDERS / "deaf").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if (ORDERS / "litter").exists() and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with (ORDERS / "litter").open("w") as pipe:
            print("here", file=pipe, flush=True)
            signal.pause()
    server.serve_forever()


if __name__ == "__main__":
    main()
