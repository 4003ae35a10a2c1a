"""What a server's answer means: which exception it becomes, and for how long it asks to wait."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from b2fs.errors import (
    AccessDenied,
    BadCredentials,
    CapExceeded,
    CorruptBody,
    InvalidRange,
    InvalidRequest,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    SlowDown,
    StoreError,
    Unavailable,
    Unsupported,
)
from b2fs.store.s3.answers import Response
from b2fs.store.s3.faults import MOST_RETRY_AFTER_S, error_of, retry_after_s
from tests.unit.s3_scripted import error_reply


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", NotFound),
        (404, "NoSuchVersion", NotFound),
        (404, "NoSuchUpload", NoSuchUpload),
        (404, "NoSuchBucket", NoSuchBucket),
        (403, "AccessDenied", AccessDenied),
        (403, "InvalidAccessKeyId", BadCredentials),
        (403, "SignatureDoesNotMatch", BadCredentials),
        (403, "RequestTimeTooSkewed", BadCredentials),
        (412, "PreconditionFailed", PreconditionFailed),
        (416, "InvalidRange", InvalidRange),
        (400, "InvalidArgument", InvalidRequest),
        (400, "EntityTooSmall", InvalidRequest),
        (400, "BadDigest", CorruptBody),
        (400, "IncompleteBody", Unavailable),
        (501, "NotImplemented", Unsupported),
        (405, "MethodNotAllowed", Unsupported),
        (503, "SlowDown", SlowDown),
        (429, "TooManyRequests", SlowDown),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (418, "Teapot", StoreError),
    ],
)
def test_errors_by_code(status: int, code: str, kind: type[StoreError]) -> None:
    reply = error_reply(status, code)
    assert type(error_of(Response(status, {}, reply.body))) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (403, AccessDenied), (412, PreconditionFailed), (503, Unavailable), (429, SlowDown)],
)
def test_errors_of_head_by_status(status: int, kind: type[StoreError]) -> None:
    assert type(error_of(Response(status, {}, b""), has_body=False)) is kind


def test_a_404_that_is_no_s3_answer_does_not_mean_absent() -> None:
    assert type(error_of(Response(404, {}, b"<html>nothing here</html>"))) is Unavailable


def test_a_hide_marker_asked_for_by_version_is_absent() -> None:
    reply = error_reply(405, "MethodNotAllowed")
    assert isinstance(error_of(Response(405, {"x-amz-delete-marker": "true"}, reply.body)), NotFound)


@pytest.mark.parametrize(
    "message",
    [
        "Cannot download file, download bandwidth or transaction (Class B) cap exceeded. See the Caps & Alerts page.",
        "Cannot upload files, storage cap exceeded. See the Caps & Alerts page to increase your cap.",
    ],
)
def test_caps_of_backblaze(message: str) -> None:
    body = error_reply(403, "AccessDenied", message.replace("&", "&amp;")).body
    assert isinstance(error_of(Response(403, {}, body)), CapExceeded)


def test_an_error_body_with_an_entity_bomb_is_harmless() -> None:
    body = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Error><Code>&b;</Code></Error>'
    assert isinstance(error_of(Response(403, {}, body)), AccessDenied)


def test_retry_after_as_number_and_as_date() -> None:
    assert retry_after_s({"retry-after": "7"}) == 7.0
    assert retry_after_s({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=20)
    assert retry_after_s({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0.0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({"retry-after": "nan"}) == 0.0
    assert retry_after_s({}) is None


def test_nobody_waits_for_an_hour_because_one_answer_said_so() -> None:
    """Reads wait too; and a date may be one of a clock that differs from ours."""
    for value in ("3600", "inf", "1e300", formatdate(time.time() + 90_000, usegmt=True)):
        assert retry_after_s({"retry-after": value}) == MOST_RETRY_AFTER_S
