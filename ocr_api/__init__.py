"""What we read: documents become pages, pages become text."""
