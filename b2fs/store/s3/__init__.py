"""The S3 store: any S3-compatible server, with Backblaze B2 in mind."""

from b2fs.store.s3.config import RetryPolicy, S3Config, b2_endpoint, check_credentials
from b2fs.store.s3.store import S3Store

__all__ = ["RetryPolicy", "S3Config", "S3Store", "b2_endpoint", "check_credentials"]
