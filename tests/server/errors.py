"""Asserting what S3 refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from botocore.exceptions import ClientError


@contextmanager
def refused(status: int, code: str, message: str | None = None) -> Iterator[None]:
    """The block must fail with this HTTP status, S3 code and, if given, a message that contains this text."""
    with pytest.raises(ClientError) as caught:
        yield
    response = caught.value.response
    assert (response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]) == (status, code), response
    if message is not None:
        assert message in response["Error"]["Message"]
