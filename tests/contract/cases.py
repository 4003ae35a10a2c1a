"""The stores that the contract suite runs on, one Case each.

To add a store: write an opener and append a Case to CASES.  An opener gets the pytest request, for fixtures of
servers, and a fresh directory; it answers a function that makes a store object for a bucket, not entered yet.  All
tests of a run may share a bucket of a server; every test keeps to a prefix of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from b2fs.cache.longkeys import LongKeys
from b2fs.core.types import Capabilities
from b2fs.store.embedded.store import EmbeddedConfig, EmbeddedStore
from b2fs.store.faults import FaultyStore
from b2fs.store.meter import MeteredStore
from b2fs.store.protocol import ObjectStore
from b2fs.store.s3 import S3Config, S3Store
from tests.server.harness import KEY_ID, REGION, SECRET
from tests.server.harness import Server as ServeServer
from tests.servers import Server
from tests.writeback.memstore import MemBucket, MemStore

SERVED_BUCKET = "contract"


class Bucket(Enum):
    """Which bucket a test wants."""

    PRESENT = "present"
    MISSING = "missing"


#: Makes a store object, not entered yet; with capabilities given, it need not probe for them.
StoreMaker = Callable[..., ObjectStore]


@dataclass(frozen=True)
class Case:
    """A store under test.

    lacks: what it cannot do that no capability tells, with the reason that a skipped test shows.  Tests ask for
    these names and for capabilities alike, by the mark `needs`.
    """

    name: str
    open: Callable[[pytest.FixtureRequest, Path], StoreMaker]
    lacks: Mapping[str, str] = field(default_factory=dict)


def _embedded(request: pytest.FixtureRequest, directory: Path, **options: Any) -> StoreMaker:
    def make(bucket: Bucket = Bucket.PRESENT, capabilities: Capabilities | None = None) -> ObjectStore:
        create = bucket is Bucket.PRESENT
        return EmbeddedStore(EmbeddedConfig(str(directory / "store"), bucket.value, create=create, **options))

    return make


def _memory(request: pytest.FixtureRequest, directory: Path) -> StoreMaker:
    """The fake that the tests of write-back stand on."""
    shared = MemBucket()

    def make(bucket: Bucket = Bucket.PRESENT, capabilities: Capabilities | None = None) -> ObjectStore:
        return MemStore(shared if bucket is Bucket.PRESENT else None, capabilities)

    return make


def _wrapped(request: pytest.FixtureRequest, directory: Path) -> StoreMaker:
    """The wrappers must not be noticed; and PUT has no conditions, as on B2."""
    make_inner = _embedded(request, directory, conditional_put=False)

    def make(bucket: Bucket = Bucket.PRESENT, capabilities: Capabilities | None = None) -> ObjectStore:
        return MeteredStore(FaultyStore(make_inner(bucket, capabilities)))

    return make


def _long_keys(request: pytest.FixtureRequest, directory: Path) -> StoreMaker:
    """What every filesystem puts around its store."""
    make_inner = _embedded(request, directory, durable=False)

    def make(bucket: Bucket = Bucket.PRESENT, capabilities: Capabilities | None = None) -> ObjectStore:
        return LongKeys(make_inner(bucket, capabilities), "", ttl_s=60.0)

    return make


def _server(request: pytest.FixtureRequest, directory: Path, *, fixture: str) -> StoreMaker:
    server: Server = request.getfixturevalue(fixture)
    environment: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment().items():
        environment.setenv(name, value)
    name = _bucket_of(server)

    def make(bucket: Bucket = Bucket.PRESENT, capabilities: Capabilities | None = None) -> ObjectStore:
        wanted = name if bucket is Bucket.PRESENT else "b2fs-no-such-bucket"
        config = S3Config(wanted, endpoint=server.endpoint, region=server.region)
        return S3Store(config, capabilities)

    return make


@functools.cache
def _bucket_of(server: Server) -> str:
    """One bucket for the whole run: a new one for each test costs SeaweedFS a volume or more."""
    return server.new_bucket()


def _served(request: pytest.FixtureRequest, directory: Path) -> StoreMaker:
    """The embedded store over HTTPS: `b2fs serve` and our own client."""
    server: ServeServer = request.getfixturevalue("served")
    environment: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    environment.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def make(bucket: Bucket = Bucket.PRESENT, capabilities: Capabilities | None = None) -> ObjectStore:
        wanted = SERVED_BUCKET if bucket is Bucket.PRESENT else "b2fs-no-such-bucket"
        config = S3Config(wanted, endpoint=server.url, region=REGION, ca_bundle=str(server.authority.ca_file))
        return S3Store(config, capabilities)

    return make


#: What the servers were seen to do otherwise: SeaweedFS 4.48, rclone 1.75.
_SEAWEEDFS_LACKS = {
    "untidy_keys": "SeaweedFS keeps keys as paths of files",
    "backslash_keys": "SeaweedFS takes a backslash for a slash",
    "part_replacement": "SeaweedFS sometimes lists the first of two contents of a part that came within a second",
    "complete_pages": "SeaweedFS forgets 'b-' where a page with delimiter ends behind 'b/'",
}
_RCLONE_LACKS = {
    "content_headers": "rclone keeps no Expires",
    "untidy_keys": "rclone keeps keys as paths of files",
    "multipart_etag": "rclone gives an assembled object the ETag of a plain one",
    "part_gaps": "rclone writes parts through in order, and wants every one from 1",
    "part_replacement": "rclone has written a part through already and refuses another content for it",
    "part_checks": "rclone takes small parts and wrong ETags",
}

CASES = [
    Case("embedded", functools.partial(_embedded, durable=False)),
    Case("wrapped", _wrapped),
    Case("long-keys", _long_keys),
    Case("memory", _memory),
    Case("b2fs-serve", _served),
    Case("seaweedfs", functools.partial(_server, fixture="seaweedfs"), _SEAWEEDFS_LACKS),
    Case("rclone", functools.partial(_server, fixture="rclone_s3"), _RCLONE_LACKS),
]
