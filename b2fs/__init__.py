"""b2fs: a Backblaze B2 or other S3-compatible bucket as a POSIX directory."""

__version__ = "0.1.0"
