"""Who you are and what you stored: organisations, files, signed links."""
