"""A filesystem in this process, the S3 client below it, a proxy that does harm, and a real server behind that.

Times are short so that faults which last pass quickly; nothing else is other than in a mount.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2fs.cache.writeback.config import WriteBackConfig
from b2fs.core.types import Capabilities
from b2fs.store.s3 import RetryPolicy, S3Config, S3Store
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.filesystem import open_filesystem
from tests.e2e.sites import Bucket
from tests.faultproxy import FaultProxy
from tests.mounting import NoKernel
from tests.server.harness import KEY_ID, REGION, SECRET, Server
from tests.servers import boto3_client
from tests.writeback.harness import Calls

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1 << 20
#: Where b2fs keeps in a bucket what is not a user's.
RESERVED = ".b2fs/"
#: For faults that only the client's patience ends: a request may take a second, and time for its bodies.
IMPATIENT: dict[str, Any] = {"stall_timeout_s": 1.0, "min_bytes_per_s": 4 * MIB}
RETRY = RetryPolicy(attempts=3, base_delay_s=0.02, max_delay_s=0.1, deadline_s=30.0)
WRITEBACK = WriteBackConfig(
    quiet_s=0.1,
    bulk_quiet_s=0.05,
    remove_quiet_s=0.05,
    dir_quiet_s=0.1,
    open_quiet_s=0.2,
    spacing_s=0.1,
    put_max_bytes=1 * MIB,
    stream_bytes=12 * MIB,
    retry_min_s=0.1,
    retry_max_s=0.5,
    refused_retry_s=0.3,
    durable_timeout_s=60.0,
)


@dataclass
class WiredCalls(Calls):
    """The filesystem, and the client that it speaks through."""

    store: S3Store


@dataclass
class Wire:
    """One bucket of a server, and the way to it."""

    proxy: FaultProxy
    s3: S3Client
    bucket: str
    root: Path
    caches: int = 0

    @asynccontextmanager
    async def mount(
        self,
        *,
        cold: bool = False,
        writeback: WriteBackConfig = WRITEBACK,
        s3: dict[str, Any] | None = None,
        **vfs: Any,
    ) -> AsyncIterator[WiredCalls]:
        """A running filesystem; leaving does not drain.  cold: with an empty cache."""
        self.caches += cold
        cache = self.root / f"cache{self.caches}"
        cache.mkdir(mode=0o700, exist_ok=True)
        config = S3Config(self.bucket, endpoint=self.proxy.endpoint, region=REGION, retry=RETRY, **(s3 or {}))
        options = VfsConfig(str(cache), attr_index=False, writeback=writeback)._replace(**vfs)
        async with (
            S3Store(config, Capabilities()) as store,
            open_filesystem(store, options, NoKernel()) as fs,
        ):
            yield WiredCalls(fs, store)

    def as_bucket(self, *words: str, past_proxy: bool = False) -> Bucket:
        """The bucket as a command mounts it, with these options."""
        endpoint = self.proxy.upstream if past_proxy else self.proxy.endpoint
        words = (f"--endpoint={endpoint}", f"--region={REGION}", *words)
        environ = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
        return Bucket(f"s3://{self.bucket}", words, environ, self.contents)

    def contents(self) -> dict[str, bytes]:
        """Every object, as another client sees it past the proxy; b2fs's own are left out."""
        found: dict[str, bytes] = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for row in page.get("Contents", ()):
                if row["Key"].startswith(RESERVED):
                    continue
                # A request that was on its way when its sender was killed may remove it meanwhile.
                with (
                    suppress(self.s3.exceptions.NoSuchKey),
                    self.s3.get_object(Bucket=self.bucket, Key=row["Key"])["Body"] as body,
                ):
                    found[row["Key"]] = body.read()
        return found

    def versions(self) -> dict[str, list[str]]:
        """The version IDs of every key that has any, hide markers left out."""
        found: dict[str, list[str]] = {}
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket):
            for row in page.get("Versions", ()):
                found.setdefault(row["Key"], []).append(row["VersionId"])
        return found

    def uploads(self) -> int:
        """How many multipart uploads are neither completed nor aborted."""
        return len(self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ()))


@contextmanager
def wire_to(server: Server, bucket: str, root: Path, seed: int = 0) -> Iterator[Wire]:
    """A new bucket of a `b2fs serve` behind a proxy."""
    with (
        FaultProxy(server.url, seed).running() as proxy,
        closing(boto3_client(server.url, KEY_ID, SECRET, REGION)) as s3,
    ):
        s3.create_bucket(Bucket=bucket)
        yield Wire(proxy, s3, bucket, root)
