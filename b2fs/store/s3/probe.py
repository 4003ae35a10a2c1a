"""Finding out on entering whether a bucket can be used, and what its server can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from b2fs.core.types import Capabilities
from b2fs.errors import (
    AccessDenied,
    BadCredentials,
    NoSuchBucket,
    NotFound,
    RetryableError,
    StoreError,
    Unavailable,
    Unsupported,
)
from b2fs.store.s3 import xmlio
from b2fs.store.s3.config import S3Config
from b2fs.store.s3.wire import Call, Paths

if TYPE_CHECKING:
    from b2fs.store.s3.store import S3Store


async def check_bucket(store: S3Store, config: S3Config) -> None:
    """List one key: the cheapest call that needs credentials, bucket and listing right, and explains itself."""
    name = f"bucket {config.bucket!r} at {config.url}"
    try:
        await store.list_objects("", max_keys=1)
    except NoSuchBucket as error:
        raise NoSuchBucket(f"{name} does not exist") from error
    except BadCredentials as error:
        raise BadCredentials(f"{name} refuses the credentials: {error}") from error
    except AccessDenied as error:
        raise AccessDenied(f"the credentials may not list {name}: {error}") from error
    except RetryableError as error:
        raise Unavailable(f"{name} cannot be reached: {error}") from error
    except (NotFound, Unsupported) as error:
        raise StoreError(f"{config.url} does not look like an S3 endpoint: {error}") from error


async def find_capabilities(store: S3Store, config: S3Config) -> Capabilities:
    return Capabilities(versioning=await _is_versioned(store, config))


async def _is_versioned(store: S3Store, config: S3Config) -> bool:
    if config.is_backblaze:
        return True  # B2 versions every bucket
    path = Paths(config.bucket, virtual=config.addressing == "virtual").bucket(versioning="")
    try:
        response = await store.calls.call(Call("GetBucketVersioning", "GET", path))
    except (Unsupported, NotFound, AccessDenied):
        return False
    return xmlio.parse_result(response.body).get("Status") == "Enabled"
