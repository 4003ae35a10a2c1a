"""Where the bucket is: the URL of a mount.

file:///path/to/store/bucket   an embedded bucket: the last part of the path names it, the rest is the store
s3://bucket[/prefix]           an S3-compatible bucket
b2://bucket[/prefix]           a Backblaze B2 bucket through its S3-compatible API

A prefix becomes "part/of/the/key/" or "".  URLs never carry credentials.
"""

from __future__ import annotations

import os
import re
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote

from b2fs.errors import ConfigError

_S3_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_B2_BUCKET = r"[A-Za-z0-9-]{6,63}"
_MAX_PREFIX_BYTES = 768  # leaves a key of 1,024 bytes room for one longest name


class FileLocation(NamedTuple):
    """An embedded bucket: a directory `bucket` of the store at store_dir (an absolute path)."""

    store_dir: str
    bucket: str

    @property
    def prefix(self) -> str:
        return ""

    @property
    def url(self) -> str:
        return "file://" + quote(os.path.join(self.store_dir, self.bucket))


class RemoteLocation(NamedTuple):
    """A bucket behind an S3-compatible endpoint; prefix is "" or ends in "/"."""

    scheme: Literal["s3", "b2"]
    bucket: str
    prefix: str = ""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix.removesuffix('/')}" if self.prefix else "")


Location = FileLocation | RemoteLocation


def parse_location(url: str) -> Location:
    """Read a URL; raises ConfigError with one sentence that says what is wrong with it."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "file":
        return _parse_file(url, rest)
    if separator and scheme in ("s3", "b2"):
        return _parse_remote("b2" if scheme == "b2" else "s3", rest)
    raise ConfigError(
        f"{_shown(url)} is not a bucket URL: write s3://BUCKET[/PREFIX], b2://BUCKET[/PREFIX] or file:///STORE/BUCKET"
    )


def _parse_file(url: str, rest: str) -> FileLocation:
    if not rest.startswith("/"):
        raise ConfigError(f"{url} needs an absolute path: write file:///STORE/BUCKET with three slashes")
    path = os.path.normpath(unquote(rest))
    # normpath keeps two leading slashes, which POSIX lets mean something else.
    store_dir, bucket = os.path.split("/" + path.lstrip("/"))
    if not bucket or "\0" in path:
        raise ConfigError(f"{url} names no bucket: write file:///STORE/BUCKET")
    return FileLocation(store_dir, bucket)


def _parse_remote(scheme: Literal["s3", "b2"], rest: str) -> RemoteLocation:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise ConfigError(
            "A bucket URL must not hold a key: other users would see it; "
            "put it into the environment or into a profile in ~/.aws/credentials"
        )
    if scheme == "b2" and not re.fullmatch(_B2_BUCKET, bucket):
        raise ConfigError(f"{bucket!r} is not a B2 bucket name: 6 to 63 letters, digits and hyphens")
    if scheme == "s3" and not re.fullmatch(_S3_BUCKET, bucket):
        raise ConfigError(f"{bucket!r} is not a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens")
    return RemoteLocation(scheme, bucket, _normal_prefix(prefix))


def _normal_prefix(text: str) -> str:
    prefix = text.removesuffix("/")
    if not prefix:
        return ""
    if any(part in ("", ".", "..") for part in prefix.split("/")):
        raise ConfigError(f"The prefix {text!r} has an empty, '.' or '..' part, which no directory can have")
    # isprintable comes first: it refuses the surrogates that encode() would raise on.
    if not prefix.isprintable() or len(prefix.encode()) > _MAX_PREFIX_BYTES:
        raise ConfigError(f"The prefix must be printable text of at most {_MAX_PREFIX_BYTES} bytes")
    return prefix + "/"


def _shown(url: str) -> str:
    """The URL for an error message, without what may be a password."""
    return repr(re.sub(r"//[^/]*@", "//...@", url))
