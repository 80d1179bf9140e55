"""Makes hostile requests for the routes of an OpenAPI document, always the same for a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any
from urllib.parse import quote

from tests import samples

METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "Q",
)
PDF = samples.text_pdf(["Nothing to see."])
UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"

TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "null",
        "true",
        "NaN",
        "x" * 300,
        "x" * 5000,
        "\x00",
        "a\x00b",
        "\x7f\x1b",
    ),
    *("é", "日本", "\U0001f4a9", "\u202e", "\ufeff", "ﬀ", "İ", "\ud800", "\udfff x", "%00", "%ff"),
    *("%", "%zz", "'", '"', "';--", "../../etc/passwd", "..\\..", "/", "//", "{{7*7}}", "${x}"),
    *("9" * 19, "9" * 400, "1e999", "0x10", "１２", "²", "+1", "1.5", "\n", "\r\nX: y", "<b>"),
    *(UNKNOWN, UNKNOWN.upper(), UNKNOWN[:-1], f"{UNKNOWN}\n", f"{{{UNKNOWN}}}", "\x00" * 36),
    *("user", "ocr", "batch", "assistants", "workspace", "created_at", "asc", "desc", "echo"),
)
NUMBERS = (
    *(
        "0",
        "-0",
        "-1",
        "1",
        "1.0",
        "1.5",
        "1e3",
        "1e999",
        "-1e999",
        "1e-999",
        "01",
        "+1",
        ".5",
        "1.",
    ),
    *("9223372036854775807", "9223372036854775808", "1" * 400, "NaN", "Infinity", "-Infinity"),
    *("2592000", "3600", "67108865", "null", "true", "0x1", "1_000"),
)
FIELDS = (
    *("model", "pages", "prompt", "document_annotation_prompt", "document_annotation_format"),
    *("bbox_annotation_format", "include_image_base64", "image_limit", "image_min_size"),
    *("table_format", "include_blocks", "confidence_scores_granularity", "id", "allow_partial"),
    *("document", "type", "document_url", "image_url", "file_id", "document_content", "org_id"),
    *("url", "json_schema", "schema", "name", "skip_cache", "extract_header", "properties"),
    *("bytes", "filename", "mime_type", "purpose", "expires_after", "anchor", "seconds"),
    *("part_ids", "md5", "__proto__", "", "\x00", "é"),
)
DOCUMENTS = (
    *(
        "data:application/pdf;base64,",
        "data:,x",
        "data:;base64,@@",
        "data:image/png;base64,iVBORw0K",
    ),
    *(
        "http://127.0.0.1:1/x",
        "http://[::1",
        "file:///etc/passwd",
        "//x",
        "http://\x00/",
        "ftp://x",
    ),
    *("JVBERi0xLjQK", "http://169.254.169.254/", "/v1/files/x/content?org=&exp=&kid=&sig="),
)
CONTENT_TYPES = (
    *("application/json", "application/json; charset=utf-7", "text/plain", "application/xml", ""),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary="),
    *("multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"', "multipart/mixed"),
    *(f"multipart/form-data; boundary={'b' * 200}", "multipart/form-data; boundary=b; boundary=c"),
    *("multipart/form-data; charset=utf-16; boundary=b", "MULTIPART/FORM-DATA; BOUNDARY=b"),
    *("application/json, text/plain", "\xff/\xfe", "image/*;q=", "multipart/form-data;boundary=é"),
)
RANGES = (
    *("bytes=0-", "bytes=0-0", "bytes=5-2", "bytes=-5", "bytes=-0", "bytes=999999-", "bytes=-", ""),
    *("bytes=0-1,3-4", f"bytes={','.join(['0-1'] * 500)}", "bytes=0-18446744073709551616", "bytes"),
    *("lines=1-2", "bytes=a-b", "bytes=0 - 1", "bytes==0-1", "bytes=\xb2-5", "bytes=+1-2", "=0-1"),
    *("bytes=0-1;q=1", f"bytes={'9' * 400}-", "Bytes=0-4", "bytes=0x0-0x4", "bytes=1-1, ,2-2"),
)
OTHER_HEADERS: Mapping[str, tuple[str, ...]] = {
    "range": RANGES,
    "if-range": ('"x"', "W/", "Sat, 01 Jan 2000 00:00:00 GMT", "\xff"),
    "if-none-match": ("*", '"x"', 'W/"x", "y"', ",,,", '"' * 500),
    "idempotency-key": (
        "a",
        "a",
        "b",
        "",
        " ",
        "k" * 255,
        "k" * 5000,
        "\xff\xfe",
        "\x00",
        'k"',
        "🙂",
    ),
    "x-org-id": (UNKNOWN, "", "x", "\xff", "' or 1=1", UNKNOWN.upper(), "0" * 5000),
    "content-length": ("-1", "abc", "0", "5", "99999999999", "9" * 400, "+1", "1, 2", "１"),
    "transfer-encoding": ("chunked", "gzip", "identity, chunked", "xchunked"),
    "content-encoding": ("gzip", "br", "identity", "x" * 300),
    "x-request-id": ("ok-1", "a b", "é", "x" * 500, "a\r\nset-cookie: x", "\x00", ""),
    "host": ("", "127.0.0.1:8000", "[::1", "evil.example", "a b", "127.0.0.1:99999", "\xff", "@"),
    "origin": ("null", "http://evil.example", "http://[", "http://127.0.0.1:8000", "\xff"),
    "sec-fetch-site": ("cross-site", "same-origin", "none", "\xff"),
    "accept": ("", "*/*", "text/html", "application/json;q=x", "\xff", "x" * 3000),
    "accept-encoding": ("gzip", "identity;q=0", "*", "\xff"),
    "expect": ("100-continue", "200-ok"),
    "cookie": ("a=b", ";" * 2000, "\xff=\xfe"),
    "x-forwarded-for": ("127.0.0.1", "' x", "\xff"),
    "x-forwarded-host": ("evil.example", "\x00"),
    "x-api-key": ("", "ocr_x", "\xff", "x" * 5000),
    "authorization": (
        *(
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "bearer ocr_",
            "Basic YTpi",
            "Basic \xff",
            "x" * 9000,
        ),
        *(
            "Bearer ocr_0000000000000000_" + "A" * 43,
            "Bearer \x00",
            "Token x",
            "Bearer  a b",
            "\xff",
        ),
    ),
}
DISPOSITIONS = (
    *('form-data; name="file"; filename="a.pdf"', 'form-data; name="purpose"', "form-data", ""),
    *('form-data; name="file"', "form-data; name=file; filename=a", 'form-data; name="data"'),
    *(
        'form-data; name="data"; filename="p"',
        'form-data; name="expiry"',
        'attachment; name="file"',
    ),
    *('form-data; name="file"; filename="../../x\x00"', 'form-data; name="file"; filename=""'),
    *("form-data; name=\"file\"; filename*=utf-8''%F0%9F%92%A9", 'form-data; name="file'),
    *('form-data; name="file"; filename*=x\'%zz', 'form-data; name="expires_after[seconds]"'),
    *('form-data; name="expires_after[anchor]"', 'form-data; name="visibility"', "form-data;;;="),
    *(
        f'form-data; name="{"n" * 9000}"',
        'form-data; name="org_id"',
        'form-data; name="a"; name="b"',
    ),
    *('form-data; name="file"; filename="\xff\xfe\xed\xa0\x80"', 'form-data; name="sample_type"'),
)


@dataclass(frozen=True)
class Request:
    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    pieces: list[bytes]
    leaves: bool
    """Whether the client hangs up in the middle of the body."""

    def __str__(self) -> str:
        head = f"{self.method} {self.target[:300]!r} {self.headers!r}"[:1500]
        return f"{head} {b''.join(self.pieces)[:800]!r}{' leaves' if self.leaves else ''}"


class Maker:
    """Makes the requests.

    Args:
        document: the OpenAPI document.
        seed: of all choices.
        keys: values of ``Authorization`` that are good; empty where none is needed.
    """

    def __init__(self, document: Mapping[str, Any], seed: int, keys: tuple[str, ...] = ()) -> None:
        self._pick = Random(seed)
        self._keys = keys
        self._operations = [
            (method.upper(), path, operation)
            for path, operations in sorted(document["paths"].items())
            for method, operation in sorted(operations.items())
        ]
        self.files: list[str] = []
        """Ids of files and uploads that there are, or were."""
        self.uploads: list[str] = []

    def make(self) -> Request:
        """Return the next request."""
        pick = self._pick
        # What takes a body has more ways to go wrong.
        weights = [4 if "requestBody" in operation else 1 for *_, operation in self._operations]
        method, path, operation = pick.choices(self._operations, weights)[0]
        if pick.random() < 0.05:
            method = pick.choice(METHODS)
        target = self._path(path) + self._query(operation)
        content = operation.get("requestBody", {}).get("content", {})
        kind, body = self._body(next(iter(content), ""), path)
        if pick.random() < 0.03:
            body = body[: len(body) // 2]
        headers = self._headers(kind)
        leaves = pick.random() < 0.03
        return Request(method, target, headers, self._pieces(body), leaves)

    def _path(self, template: str) -> bytes:
        pick, path = self._pick, template
        if "{" in path:
            known = self.uploads if "upload_id" in path else self.files
            some_id = pick.choice([*known[-20:], UNKNOWN]) if pick.random() < 0.7 else self._text()
            safe = "" if pick.random() < 0.8 else "/%?&=#;:@"
            begin, end = path.index("{"), path.index("}") + 1
            path = path[:begin] + quote(_utf8(some_id), safe=safe) + path[end:]
        if pick.random() < 0.05:
            harms = (
                *(f"/v1{path}", f"/{path}", f"{path}/", path.upper(), f"{path}%00", f"{path}/.."),
                *(path.replace("v1", "v%31"), f"{path}\xff", path[:-1], f"{path}%2F", f"{path}%ff"),
            )
            path = pick.choice(harms)
        return path.encode("utf-8", "surrogatepass")

    def _query(self, operation: Mapping[str, Any]) -> bytes:
        pick = self._pick
        names = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
        names += ["org", "exp", "kid", "sig", "token", "expiry", "x"]
        if pick.random() < (0.2 if len(names) == 7 else 0.85):
            return b""
        pairs = []
        for _ in range(pick.choice((1, 1, 2, 3, 8))):
            value = pick.choice((self._text, lambda: pick.choice(NUMBERS)))()
            escaped = quote(_utf8(value)) if pick.random() < 0.7 else value
            name = pick.choice(names) if pick.random() < 0.9 else self._text()
            pairs.append(f"{name}={escaped}" if pick.random() < 0.95 else name)
        if pick.random() < 0.01:
            pairs = pairs * 3000
        return b"?" + pick.choice("&&&&;")[:1].join(pairs).encode("utf-8", "surrogatepass")

    def _headers(self, kind: str) -> list[tuple[bytes, bytes]]:
        pick = self._pick
        pairs: list[tuple[str, str]] = []
        if self._keys and pick.random() < 0.9:
            pairs.append(("authorization", pick.choice(self._keys)))
        if pick.random() < 0.9:
            pairs.append(
                ("content-type", kind if pick.random() < 0.9 else pick.choice(CONTENT_TYPES))
            )
        while pick.random() < 0.35:
            name = pick.choice(list(OTHER_HEADERS))
            pairs.append((name, pick.choice(OTHER_HEADERS[name])))
        return [(name.encode(), value.encode("latin-1", "replace")) for name, value in pairs]

    def _pieces(self, body: bytes) -> list[bytes]:
        pick = self._pick
        if pick.random() < 0.8 or len(body) < 2:
            return [body]
        cuts = sorted(pick.randrange(len(body)) for _ in range(pick.choice((1, 2, 5))))
        edges = [0, *cuts, len(body)]
        return [body[a:b] for a, b in pairwise(edges)]

    # --- bodies -----------------------------------------------------------------------------------

    def _body(self, kind: str, path: str) -> tuple[str, bytes]:
        pick = self._pick
        if not kind and pick.random() < 0.8:
            return kind, b""
        if pick.random() < 0.04:
            return kind, pick.randbytes(pick.choice((1, 10, 300, 5000)))
        if kind.startswith("multipart") or (not kind and pick.random() < 0.3):
            return "multipart/form-data; boundary=b", self._form()
        return "application/json", self._json(path)

    def _json(self, path: str) -> bytes:
        pick = self._pick
        text = json.dumps(self._likely(path)) if pick.random() < 0.5 else self._value(4)
        harms: tuple[Callable[[str], str], ...] = (
            lambda t: t[: pick.randrange(len(t) + 1)],
            lambda t: t + pick.choice(("x", "}", ",", " {}", "\x00", "//")),
            lambda t: t.replace('"', "'"),
            lambda t: t.replace(":", ":" + pick.choice(NUMBERS) + ",", 1),
            lambda t: "[" * pick.choice((50, 2000, 60_000)) + t,
            lambda t: '{"document":' * pick.choice((50, 20_000)) + t,
            lambda t: t.replace("{", '{"document":null,"model":1,"model":"echo",', 1),
            lambda t: t.replace('"', '"\\ud800', 1),
            lambda t: t.replace('"', '"\\u0000', 1),
            lambda t: t.replace('"', '"\x01', 1),
            lambda t: f"[{t}]",
            json.dumps,
            lambda t: f'{{"x":[{"0," * 120_000}{t}]}}',
            lambda t: "\ufeff" + t,
        )
        if pick.random() < 0.45:
            text = pick.choice(harms)(text)
        codec = pick.choice(("utf-8",) * 20 + ("utf-16", "utf-32", "latin-1", "utf-8-sig"))
        errors = "surrogatepass" if codec.startswith("utf") else "replace"
        return text.encode(codec, errors)

    def _likely(self, path: str) -> dict[str, Any]:
        """Return a body that is nearly right for a route."""
        pick = self._pick
        body: dict[str, Any]
        if path.endswith("/uploads"):
            body = {"bytes": len(PDF), "filename": "a.pdf", "mime_type": "application/pdf",
                    "purpose": "user_data"}  # fmt: skip
        elif path.endswith("/complete"):
            body = {"part_ids": [pick.choice([*self.uploads[-5:], UNKNOWN])]}
        else:
            url = pick.choice((*DOCUMENTS, *(f"file:{some}" for some in self.files[-3:])))
            document = {"type": "document_url", "document_url": url}
            if pick.random() < 0.3 and self.files:
                document = {"type": "file", "file_id": pick.choice(self.files[-20:])}
            body = {"model": "echo", "document": document}
        for _ in range(pick.choice((0, 1, 2))):
            name = pick.choice([*body, *FIELDS])
            body[name] = pick.choice((self._text, lambda: json.loads(self._value(3, plain=True))))()
        return body

    def _value(self, depth: int, *, plain: bool = False) -> str:
        """Return JSON text of any shape; only valid one where it must be ``plain``."""
        pick = self._pick
        kind = pick.random()
        if depth == 0 or kind < 0.25:
            return json.dumps(self._text())
        if kind < 0.45:
            return pick.choice(("0", "-1", "1.5", "null", "true", "1e9") if plain else NUMBERS)
        if kind < 0.6:
            parts = (self._value(depth - 1, plain=plain) for _ in range(pick.randrange(4)))
            return f"[{','.join(parts)}]"
        names = [json.dumps(pick.choice(FIELDS)) for _ in range(pick.randrange(5))]
        return f"{{{','.join(f'{n}:{self._value(depth - 1, plain=plain)}' for n in names)}}}"

    def _form(self) -> bytes:
        pick = self._pick
        count = pick.choice((0, 1, 1, 1, 2, 3, 8)) if pick.random() < 0.98 else 1500
        form = b"".join(self._part() for _ in range(count)) + b"--b--\r\n"
        if pick.random() < 0.4:
            file = (
                b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a.pdf"\r\n\r\n%s\r\n'
            )
            form = file % (pick.choice((b"file", b"file", b"data")), PDF) + form
        harms: tuple[Callable[[bytes], bytes], ...] = (
            lambda f: f.replace(b"\r\n", b"\n"),
            lambda f: f.replace(b"--b--", b""),
            lambda f: f.replace(b"--b", b"--c", 1),
            lambda f: f.replace(b"\r\n\r\n", b"\r\n", 1),
            lambda f: f.replace(b":", b"", 1),
            lambda f: b"preamble\r\n" + f + b"epilogue--b\r\n",
            lambda f: f[: pick.randrange(len(f) + 1)],
            lambda f: f.replace(b"Content-Disposition", b"X-" + b"y" * 20_000, 1),
            lambda f: f.replace(b"\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n", 1),
            lambda f: f.replace(b"\r\n", b"\r\nContent-Disposition: form-data; name=x\r\n", 1),
            lambda f: f.replace(b"\r\n", b"\r\n" + b"h: v\r\n" * 200, 1),
            lambda f: b"".join(bytes([b ^ (pick.random() < 0.01) * 32]) for b in f[:3000]),
            lambda f: f + f,
            lambda f: b"\r\n" * 50 + f,
        )
        return pick.choice(harms)(form) if pick.random() < 0.4 else form

    def _part(self) -> bytes:
        pick = self._pick
        lines = [f"Content-Disposition: {pick.choice(DISPOSITIONS)}"]
        if pick.random() < 0.3:
            lines.append(f"Content-Type: {pick.choice(CONTENT_TYPES)}")
        head = "\r\n".join(lines).encode("latin-1", "replace")
        value = pick.choice((self._text, lambda: pick.choice(NUMBERS)))()
        body = PDF if pick.random() < 0.2 else _utf8(value)
        if pick.random() < 0.01:
            body = bytes(pick.choice((70_000, 2_000_000)))
        return b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n"

    def _text(self) -> str:
        pick = self._pick
        if pick.random() < 0.8:
            return pick.choice(TEXTS)
        return "".join(chr(pick.randrange(1, 0xD7FF)) for _ in range(pick.randrange(1, 12)))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
