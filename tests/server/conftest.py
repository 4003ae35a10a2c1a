"""One server for all tests of this directory; each test has a bucket of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.harness import OTHER_KEY_ID, Authority, Server, run_server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("serve")
    with run_server(directory, authority, ["--max-buckets", "10000"]) as running:
        yield running


@pytest.fixture(scope="session")
def s3(server: Server) -> S3Client:
    return server.s3()


@pytest.fixture(scope="session")
def other(server: Server) -> S3Client:
    """A client of another account."""
    return server.s3(OTHER_KEY_ID)


@pytest.fixture
def bucket(s3: S3Client) -> str:
    name = f"test-bucket-{next(_NUMBERS)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def lock_bucket(s3: S3Client) -> str:
    name = f"lock-bucket-{next(_NUMBERS)}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name
