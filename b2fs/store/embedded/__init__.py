"""The embedded store: one directory with an SQLite database and content files."""
