"""The kinds of the exceptions behind an error, for its log line."""

from __future__ import annotations

from files_api.kit.errors import AppError, StorageUnavailable


def test_causes_are_named_nearest_first() -> None:
    error, near = StorageUnavailable(), OSError("a secret")
    error.__cause__, near.__cause__ = near, ValueError("another")
    assert error.cause() == "OSError < ValueError"


def test_an_error_that_is_its_own_cause_has_an_end() -> None:
    error = AppError()
    error.__cause__ = error
    assert error.cause().split(" < ") == ["AppError"] * 8
