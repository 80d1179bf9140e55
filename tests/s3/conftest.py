"""A real S3 store that the environment names; without one, its tests are skipped.

``RECTO_TEST_S3`` is the URL of a store as ``RECTO_BLOB_URL`` has it, and the credentials stand in
``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``. ``swift.sh`` sets all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from files_api.kit.ids import new_id
from tests import s3server

# Read here, because each test begins with an environment that is clean of our variables.
URL = os.environ.get("RECTO_TEST_S3", "")


@pytest.fixture(scope="session")
def real_s3() -> str:
    """The store's URL; its bucket is made where it is missing."""
    if not URL:
        pytest.skip("RECTO_TEST_S3 names no store: make test-s3")
    bucket = urlsplit(URL).netloc
    try:
        s3server.client(URL).head_bucket(Bucket=bucket)
    except ClientError:
        s3server.client(URL).create_bucket(Bucket=bucket)
    return URL


@pytest.fixture
def blob_url(real_s3: str) -> Iterator[str]:
    """A prefix of its own for each test, cleared at the end."""
    parts = urlsplit(real_s3)
    prefix = f"{parts.path.strip('/')}/{new_id()}".strip("/")
    url = parts._replace(path=f"/{prefix}").geturl()
    yield url
    for key in s3server.objects(url):
        s3server.client(url).delete_object(Bucket=parts.netloc, Key=key)
