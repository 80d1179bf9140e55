"""The contract of blob stores, kept on a real S3 store: the suite runs again with its URL."""

from __future__ import annotations

# What another server can change; ``store`` is the suite's fixture, over this folder's blob_url.
from tests.contract.test_blobs import (  # noqa: F401
    store,
    test_a_blob_never_changes,
    test_a_cancelled_write_leaves_nothing,
    test_a_deleted_blob_is_gone,
    test_a_missing_blob,
    test_a_reader_that_leaves_early,
    test_all_blobs_are_listed,
    test_an_aborted_write_leaves_nothing,
    test_check_answers,
    test_every_range,
    test_fifty_at_once,
    test_one_chunk_may_hold_all,
    test_ranges_of_nothing,
    test_sizes_around_those_of_parts,
    test_what_was_put_is_read,
    test_writes_that_break_at_any_byte_leave_nothing,
)
