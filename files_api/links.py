r"""Signed download links: who has the link may read one file until it expires. Pure.

    GET /v1/files/{file}/content?org=…&exp=…&kid=…&sig=…
    sig = base64url(HMAC-SHA256(key, "ocr-url-v1\nGET\norg\nfile\nexp\nkid")), unpadded

The key is derived from the master secret with HKDF-SHA256 (RFC 5869), and its id from the key,
so that a change of the secret needs no table: the current key signs, the previous one verifies.

Why the host is not signed: the same service has several names (port forwards, split-horizon
DNS), and the signature alone proves that the link is ours.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from files_api.kit.disk import write_private
from files_api.kit.errors import LinkForbidden
from files_api.kit.ids import is_id

MAX_HOURS = 168
"""Longest life of a link: a week, as Mistral's and S3's."""
DEFAULT_HOURS = 24
QUERY_KEYS = frozenset({"org", "exp", "kid", "sig"})
"""The query of a signed link has exactly these."""

_VERSION = "ocr-url-v1"
_PATH = re.compile(r"/v1/files/([0-9a-f-]{36})/content\Z")
_PRINTABLE = re.compile(r"[!-~]+")
_EXPIRY = re.compile(r"[1-9][0-9]{0,14}")
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ParsedLink:
    """The parts of a URL that looks like one of our links; nothing is verified yet."""

    file_id: str
    org: str
    exp: str
    """Unix seconds; a decimal number without sign or leading zero, if the link is good."""
    kid: str
    sig: str


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    key: bytes


class Links:
    """Signs and verifies links with keys derived from the master secret."""

    def __init__(
        self, secret: bytes, previous: bytes | None = None, public_url: str | None = None
    ) -> None:
        """Take the master secret, the one before it, and the address that clients know us by."""
        self._current = _derive(secret)
        keys = [self._current, *([_derive(previous)] if previous else [])]
        self._keys = {key.kid: key for key in keys}
        self._home = urlsplit(f"{public_url.rstrip('/')}/v1/files/") if public_url else None

    def sign(self, base_url: str, org: str, file_id: str, expires_at: int) -> str:
        """Return a link to a file.

        Args:
            base_url: what clients reach the service by, with or without a final slash.
            org: the organisation that owns the file.
            file_id: the file.
            expires_at: unix seconds; the caller keeps it within `MAX_HOURS`.
        """
        exp = str(expires_at)
        sig = _signature(self._current, file_id, org, exp)
        query = f"org={org}&exp={exp}&kid={self._current.kid}&sig={sig}"
        return f"{base_url.rstrip('/')}/v1/files/{file_id}/content?{query}"

    def verify(self, link: ParsedLink, now: float) -> None:
        """Return when the link may be read with GET now, in unix seconds.

        Raises:
            LinkForbidden: it may not; the message never says which part is wrong.
        """
        key = self._keys.get(link.kid)
        if key is None or not is_id(link.org) or not is_id(link.file_id):
            raise LinkForbidden
        if not _EXPIRY.fullmatch(link.exp):
            raise LinkForbidden
        # The encoded texts are compared: base64's last character has spare bits, so that
        # several texts decode to the same bytes.
        wanted = _signature(key, link.file_id, link.org, link.exp)
        if not hmac.compare_digest(wanted.encode(), link.sig.encode("utf-8", "surrogatepass")):
            raise LinkForbidden
        if not now < int(link.exp) <= now + MAX_HOURS * 3600:
            raise LinkForbidden

    def parse(self, url: str) -> ParsedLink | None:
        """Return the parts of a URL of ours, whatever its host, or None.

        Ours means: the path ends in ``/v1/files/{uuid}/content``, the query has exactly the
        four keys, once each, and the key id is one of ours.
        """
        # urlsplit drops tabs and line ends silently; a link of ours has none.
        if not _PRINTABLE.fullmatch(url):
            return None
        with suppress(ValueError):  # a URL that urlsplit refuses is nobody's link
            parts = urlsplit(url)
            match = _PATH.search(parts.path)
            query = dict(pair.partition("=")[::2] for pair in parts.query.split("&"))
            exact = query.keys() == QUERY_KEYS and parts.query.count("&") + 1 == len(QUERY_KEYS)
            if match and exact and query["kid"] in self._keys and is_id(match[1]):
                return ParsedLink(match[1], query["org"], query["exp"], query["kid"], query["sig"])
        return None

    def leads_home(self, url: str) -> bool:
        """Tell whether a URL is at our public address, among the files.

        Such a document is never fetched: it is a good link of ours, or it is nothing.
        """
        with suppress(ValueError):
            parts = urlsplit(url)
            if self._home and _origin(parts) == _origin(self._home):
                return parts.path.startswith(self._home.path)
        return False


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port (RFC 6454, section 4); a bad port is a ValueError."""
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def hkdf_sha256(secret: bytes, info: bytes, *, salt: bytes = b"", length: int = 32) -> bytes:
    """Return ``length`` (at most 8160) bytes of key for one purpose, ``info`` (RFC 5869)."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    block, output = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def load_or_make_secret(data_dir: Path) -> bytes:
    """Return the master secret kept in the data folder; make it on the first call.

    32 random bytes in ``secret.key``, readable by the owner only. Of several processes that
    start together, one makes it and all get the same.

    Raises:
        ValueError: the file does not hold 32 bytes.
        OSError: the folder cannot be read or written.
    """
    path = data_dir / "secret.key"
    with suppress(FileExistsError):
        if not path.exists():
            write_private(path, secrets.token_bytes(_SECRET_BYTES))
    secret = path.read_bytes()
    if len(secret) != _SECRET_BYTES:
        raise ValueError(f"{path} does not hold {_SECRET_BYTES} bytes")
    return secret


def _derive(secret: bytes) -> _Key:
    key = hkdf_sha256(secret, b"recto " + _VERSION.encode())
    return _Key(sha256(b"kid\n" + key).hexdigest()[:12], key)


def _signature(key: _Key, file_id: str, org: str, exp: str) -> str:
    message = "\n".join((_VERSION, "GET", org, file_id, exp, key.kid))
    digest = hmac.digest(key.key, message.encode(), "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
