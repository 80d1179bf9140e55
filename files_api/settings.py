"""Settings of the files service: where things are kept, the secret, the limits.

Read in `app` and `cli` only, and handed down as values; importing a module reads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
_SECRET_CHARACTERS = 32
_PLACEHOLDERS = ("changeme", "replaceme", "placeholder", "yoursecret", "example", "insecure")
_FEWEST_DIFFERENT = 8


class FilesSettings(BaseSettings):
    """Settings of the files service; each is an environment variable ``RECTO_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix="RECTO_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # A refused secret must not stand in the message that refuses it.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path = Path("data")
    """Folder for the database, the files and the generated secret; made when missing."""
    database_url: str | None = Field(default=None, repr=False)
    """SQLAlchemy URL, `sqlite:///…` or `postgresql://…`; empty means SQLite in the data folder."""
    blob_url: str | None = Field(default=None, repr=False)
    """Where the bytes of files are kept, `file:///…` or `s3://bucket/prefix` (docs/operations.md
    has its options); empty means a folder in the data folder."""
    redirect_downloads: bool = False
    """Whether signed links lead to the store's own, where it has any (S3): the bytes then do not
    pass through this service."""
    public_url: str | None = None
    """The address that clients reach this service by, for signed links; empty means the address
    of each request."""
    secret_key: SecretStr | None = None
    """Master secret of signed links and of what checks API keys, at least 32 characters; empty
    means one that is generated once and kept in the data folder."""
    require_keys: bool = False
    """Refuse whoever shows no API key, also while none was made yet; the server may then listen on
    any address from its first start on."""
    previous_secret_key: SecretStr | None = None
    """The master secret before the current one: its links stay valid until they expire, and its
    API keys move to the current one when they are used."""
    max_file_bytes: Annotated[int, Field(ge=1)] = 512 * MIB
    """Most bytes of one uploaded file or document."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = 8 * 1024 * MIB
    """Most bytes of one file that is uploaded in parts."""
    max_temporary_bytes: Annotated[int, Field(ge=1)] = 8 * 1024 * MIB
    """Most bytes of documents that lie on this machine's disk only while they are read, in each API
    process: from requests, from URLs, and copies from an S3 store. One organisation has half."""

    max_org_bytes: Annotated[int, Field(ge=0)] = 0
    """Most bytes that an organisation stores, where it has no limit of its own; 0 means no limit,
    here and in the four settings below."""
    max_org_files: Annotated[int, Field(ge=0)] = 0
    """Most files that an organisation stores."""
    requests_per_minute: Annotated[int, Field(ge=0)] = 0
    """Most requests of an organisation in a minute, in each API process."""
    pages_per_minute: Annotated[int, Field(ge=0)] = 0
    """Most pages read for an organisation in a minute, in each API process."""
    bytes_per_minute: Annotated[int, Field(ge=0)] = 0
    """Most bytes uploaded by an organisation in a minute, in each API process."""
    max_uploads: Annotated[int, Field(ge=1)] = 64
    """Most uploads at the same time, in each API process."""
    max_org_uploads: Annotated[int, Field(ge=1)] = 16
    """Most uploads of one organisation at the same time, in each API process."""
    header_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds that the headers of a request may take to come."""
    body_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that the next piece of a request's body may take to come."""

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        bare = not (parts.query or parts.fragment or parts.username)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not bare:
            raise ValueError("must be http(s)://host, without user, query or fragment")
        return value.rstrip("/")

    @field_validator("secret_key", "previous_secret_key")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        secret = value.get_secret_value()
        if len(secret) < _SECRET_CHARACTERS:
            raise ValueError(f"must have at least {_SECRET_CHARACTERS} characters")
        plain = "".join(letter for letter in secret.lower() if letter.isalnum())
        if len(set(secret)) < _FEWEST_DIFFERENT or any(word in plain for word in _PLACEHOLDERS):
            raise ValueError("looks like a placeholder; make one with: openssl rand -hex 32")
        return value

    def effective_database_url(self) -> str:
        """Return the database URL, or that of the SQLite file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'recto.db'}"

    def effective_blob_url(self) -> str:
        """Return the blob store's URL, or that of the folder in the data folder."""
        return self.blob_url or (self.data_dir.absolute() / "blobs").as_uri()
