"""Helpers that know no file, no document and no model."""
