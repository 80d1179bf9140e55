"""A presigned S3 link with more in its query than its maker could put there. Pure.

The format is Signature Version 4 in the query: "Authenticating Requests: Using Query Parameters"
of Amazon S3's API reference.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qsl, quote, urlencode, urlsplit


def sign_again(url: str, secret: str, parameters: dict[str, str]) -> str:
    """Return a presigned GET link with more query parameters, signed anew.

    Args:
        url: a link signed with Signature Version 4 in the query, for the host header alone.
        secret: the secret of the access key that it names.
        parameters: what is added to the query.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True)) | parameters
    del query["X-Amz-Signature"]
    canonical = urlencode(sorted(query.items()), quote_via=quote, safe="")
    request = f"GET\n{parts.path}\n{canonical}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = query["X-Amz-Credential"].split("/", 1)[1]
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"{query['X-Amz-Algorithm']}\n{query['X-Amz-Date']}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), text):
        key = hmac.digest(key, part.encode(), "sha256")
    return parts._replace(query=f"{canonical}&X-Amz-Signature={key.hex()}").geturl()
