"""The S3 store: any S3-compatible server, with Backblaze B2 in mind.

The store is loaded when it is asked for: what a mount does first needs neither it nor the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from b2fs.store.s3.config import RetryPolicy, S3Config, b2_endpoint, check_credentials

if TYPE_CHECKING:
    from b2fs.store.s3.store import S3Store

__all__ = ["RetryPolicy", "S3Config", "S3Store", "b2_endpoint", "check_credentials"]


def __getattr__(name: str) -> object:
    if name != "S3Store":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from b2fs.store.s3.store import S3Store

    return S3Store
