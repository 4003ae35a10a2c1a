"""The HTTP front of the embedded store."""
