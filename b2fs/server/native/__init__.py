"""Backblaze's native API over the same store: enough for the `b2` program and b2sdk."""
