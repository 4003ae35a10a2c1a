"""Which operation a request asks for: method, path or virtual host, query and headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.model import Level, Operation, operations
from b2fs.server.wire.request import Request

_ADDRESS: Final = re.compile(r"\[.*\]|[0-9.]+")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request names: the call, and the bucket and key as they stand in the URL."""

    operation: Operation
    bucket: str
    key: str


def split_path(request: Request, domains: Sequence[str]) -> tuple[str, str]:
    """Bucket and key of a request; a host `bucket.<domain>` names the bucket, else the path's first part does."""
    host = request.host
    path = request.path[1:]
    if not _ADDRESS.fullmatch(host):
        for domain in domains:
            if host.endswith(f".{domain}"):
                return host[: -len(domain) - 1], path
    bucket, _, key = path.partition("/")
    return bucket, key


@lru_cache(maxsize=1)
def _candidates() -> Mapping[tuple[str, Level], tuple[Operation, ...]]:
    """Operations by method and level, the most demanding first, so that the first that fits is the one."""

    def demands(operation: Operation) -> tuple[int, int, bool]:
        return (
            len(operation.literal_query),
            len(operation.required_query) + len(operation.required_headers),
            operation.supported,
        )

    table: dict[tuple[str, Level], list[Operation]] = {}
    for operation in operations().values():
        table.setdefault((operation.method, operation.level), []).append(operation)
    return {slot: tuple(sorted(found, key=demands, reverse=True)) for slot, found in table.items()}


def _fits(operation: Operation, params: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    for name, value in operation.literal_query.items():
        if name not in params or (value and params[name] != value):
            return False
    return all(name in params for name in operation.required_query) and all(
        name in headers for name in operation.required_headers
    )


def route(request: Request, domains: Sequence[str]) -> Target:
    """The call that a request asks for.

    Raises MethodNotAllowed for a combination that S3 does not have, NotImplemented for calls that B2 does not offer.
    """
    bucket, key = split_path(request, domains)
    level = Level.OBJECT if key else Level.BUCKET if bucket else Level.SERVICE
    for operation in _candidates().get((request.method, level), ()):
        if _fits(operation, request.params, request.headers):
            if not operation.supported:
                raise S3Error("NotImplemented", f"{operation.name} is not implemented")
            return Target(operation, bucket, key)
    raise S3Error("MethodNotAllowed")
