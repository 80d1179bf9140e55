"""Settings of the files service."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import ValidationError

from files_api.settings import FilesSettings

GOOD = "5d0c1f0b6f2e4d8c9a7b3e1f5d0c1f0b6f2e4d8c"


def test_defaults_lie_in_the_data_folder(tmp_path: Path) -> None:
    settings = FilesSettings(data_dir=tmp_path / "a b%")
    assert settings.effective_database_url() == f"sqlite:///{tmp_path}/a b%/recto.db"
    blobs = urlsplit(settings.effective_blob_url())
    assert (blobs.scheme, unquote(blobs.path)) == ("file", f"{tmp_path}/a b%/blobs")
    assert settings.max_file_bytes == 512 * 2**20
    assert settings.secret_key is None


def test_the_environment_is_read_and_empty_values_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECTO_PUBLIC_URL", "https://ocr.example.org/")
    monkeypatch.setenv("RECTO_SECRET_KEY", GOOD)
    monkeypatch.setenv("RECTO_BLOB_URL", "")
    settings = FilesSettings()
    assert settings.public_url == "https://ocr.example.org"
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == GOOD
    assert settings.blob_url is None
    assert GOOD not in repr(settings)


@pytest.mark.parametrize(
    "secret", ["short", "a" * 40, "ab" * 20, "changeme-" * 8, "Change-Me_now!" * 4, "x" * 31]
)
@pytest.mark.parametrize("name", ["secret_key", "previous_secret_key"])
def test_weak_secrets_are_refused_and_not_repeated(name: str, secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FilesSettings.model_validate({name: secret})
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ocr.example.org", "ftp://h", "https://", "https://u:p@h", "https://h/?a=b", "http://["]
)
def test_bad_public_urls_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        FilesSettings(public_url=url)


def test_settings_are_frozen_and_described() -> None:
    with pytest.raises(ValidationError):
        FilesSettings().max_file_bytes = 1  # type: ignore[misc]
    fields = FilesSettings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []
