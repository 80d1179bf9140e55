"""Where a store that speaks S3 is: what ``s3://bucket/prefix?…`` says."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

OPTIONS = ("endpoint", "region", "style")
_STYLES = ("path", "virtual")


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix in a bucket of a server."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    endpoint: str
    """The server's URL, with the bucket in it where ``virtual``; empty for Amazon's."""
    region: str
    """Empty where the URL names none."""
    virtual: bool
    """Whether the bucket stands in front of the host, not in the path."""


def parse(url: str) -> Place:
    """Return what a store's URL says.

    Raises:
        ValueError: it is no such URL; the message does not repeat it.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("credentials are not part of the URL; set AWS_ACCESS_KEY_ID and so on")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"no option {', '.join(unknown)}; there are: {', '.join(OPTIONS)}")
    style = options.get("style", "path")
    if not parts.netloc or style not in _STYLES:
        raise ValueError(f"an S3 URL is s3://bucket/prefix; style is {' or '.join(_STYLES)}")
    endpoint, virtual = options.get("endpoint", ""), style == "virtual"
    if "endpoint" in options:
        server = urlsplit(endpoint)
        inside = server.path.strip("/") or server.query or server.fragment or "@" in server.netloc
        if server.scheme not in {"http", "https"} or not server.netloc or inside:
            raise ValueError("endpoint is https://host or http://host:port and no more")
        host = f"{parts.netloc}.{server.netloc}" if virtual else server.netloc
        endpoint = f"{server.scheme}://{host}"
    prefix = unquote(parts.path).strip("/")
    return Place(parts.netloc, prefix, endpoint, options.get("region", ""), virtual)
