"""Object Lock: configuration, retention, legal hold, and that they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.errors import refused

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
LATER = SOON + timedelta(days=1)


def rule(**default: Any) -> Any:
    return {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": default}}


def test_configuration(s3: S3Client, lock_bucket: str) -> None:
    assert s3.get_object_lock_configuration(Bucket=lock_bucket)["ObjectLockConfiguration"] == {
        "ObjectLockEnabled": "Enabled"
    }
    wanted = rule(Mode="GOVERNANCE", Days=1)
    s3.put_object_lock_configuration(Bucket=lock_bucket, ObjectLockConfiguration=wanted)
    assert s3.get_object_lock_configuration(Bucket=lock_bucket)["ObjectLockConfiguration"] == wanted
    s3.put_object(Bucket=lock_bucket, Key="k", Body=b"x")
    head = s3.head_object(Bucket=lock_bucket, Key="k")
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert timedelta(hours=23) < head["ObjectLockRetainUntilDate"] - datetime.now(UTC) < timedelta(hours=25)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (rule(Mode="GOVERNANCE", Days=1, Years=1), "MalformedXML"),
        (rule(Mode="GOVERNANCE"), "MalformedXML"),
        (rule(Mode="abc", Days=1), "MalformedXML"),
        (rule(Mode="GOVERNANCE", Days=0), "InvalidRetentionPeriod"),
        (rule(Mode="GOVERNANCE", Years=-1), "InvalidRetentionPeriod"),
        ({"ObjectLockEnabled": "Disabled"}, "MalformedXML"),
    ],
)
def test_bad_configurations(s3: S3Client, lock_bucket: str, wanted: Any, code: str) -> None:
    with refused(400, code):
        s3.put_object_lock_configuration(Bucket=lock_bucket, ObjectLockConfiguration=wanted)


def test_buckets_without_lock(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused(404, "ObjectLockConfigurationNotFoundError"):
        s3.get_object_lock_configuration(Bucket=bucket)
    with refused(409, "InvalidBucketState"):
        s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=rule(Mode="GOVERNANCE", Days=1))
    retention: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": SOON}
    with refused(400, "InvalidRequest"):
        s3.put_object_retention(Bucket=bucket, Key="k", Retention=retention)
    with refused(400, "InvalidRequest"):
        s3.get_object_retention(Bucket=bucket, Key="k")
    with refused(400, "InvalidRequest"):
        s3.put_object_legal_hold(Bucket=bucket, Key="k", LegalHold={"Status": "ON"})
    with refused(400, "InvalidRequest"):
        s3.get_object_legal_hold(Bucket=bucket, Key="k")
    with refused(400, "InvalidRequest"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")


def test_governance(s3: S3Client, lock_bucket: str) -> None:
    version = s3.put_object(Bucket=lock_bucket, Key="k", Body=b"x")["VersionId"]
    with refused(404, "NoSuchObjectLockConfiguration"):
        s3.get_object_retention(Bucket=lock_bucket, Key="k")
    s3.put_object_retention(Bucket=lock_bucket, Key="k", Retention={"Mode": "GOVERNANCE", "RetainUntilDate": LATER})
    found = s3.get_object_retention(Bucket=lock_bucket, Key="k", VersionId=version)["Retention"]
    assert found == {"Mode": "GOVERNANCE", "RetainUntilDate": LATER}
    s3.delete_object(Bucket=lock_bucket, Key="k")
    with refused(403, "AccessDenied"):
        s3.delete_object(Bucket=lock_bucket, Key="k", VersionId=version)
    many = s3.delete_objects(Bucket=lock_bucket, Delete={"Objects": [{"Key": "k", "VersionId": version}]})
    assert [item["Code"] for item in many["Errors"]] == ["AccessDenied"]
    shorter: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": SOON}
    with refused(403, "AccessDenied"):
        s3.put_object_retention(Bucket=lock_bucket, Key="k", VersionId=version, Retention=shorter)
    s3.put_object_retention(
        Bucket=lock_bucket, Key="k", VersionId=version, Retention=shorter, BypassGovernanceRetention=True
    )
    s3.delete_object(Bucket=lock_bucket, Key="k", VersionId=version, BypassGovernanceRetention=True)
    with refused(404, "NoSuchVersion"):
        s3.get_object(Bucket=lock_bucket, Key="k", VersionId=version)


def test_compliance(s3: S3Client, lock_bucket: str) -> None:
    version = s3.put_object(
        Bucket=lock_bucket, Key="k", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=SOON
    )["VersionId"]
    assert s3.head_object(Bucket=lock_bucket, Key="k")["ObjectLockMode"] == "COMPLIANCE"
    with refused(403, "AccessDenied"):
        s3.delete_object(Bucket=lock_bucket, Key="k", VersionId=version, BypassGovernanceRetention=True)
    weaker: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": SOON}
    with refused(403, "AccessDenied"):
        s3.put_object_retention(Bucket=lock_bucket, Key="k", Retention=weaker, BypassGovernanceRetention=True)
    s3.put_object_retention(Bucket=lock_bucket, Key="k", Retention={"Mode": "COMPLIANCE", "RetainUntilDate": LATER})


def test_legal_hold(s3: S3Client, lock_bucket: str) -> None:
    version = s3.put_object(Bucket=lock_bucket, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    assert s3.get_object_legal_hold(Bucket=lock_bucket, Key="k")["LegalHold"]["Status"] == "ON"
    assert s3.head_object(Bucket=lock_bucket, Key="k")["ObjectLockLegalHoldStatus"] == "ON"
    with refused(403, "AccessDenied"):
        s3.delete_object(Bucket=lock_bucket, Key="k", VersionId=version)
    bad: Any = {"Status": "abc"}
    with refused(400, "MalformedXML"):
        s3.put_object_legal_hold(Bucket=lock_bucket, Key="k", LegalHold=bad)
    s3.put_object_legal_hold(Bucket=lock_bucket, Key="k", LegalHold={"Status": "OFF"})
    s3.delete_object(Bucket=lock_bucket, Key="k", VersionId=version)


def test_bad_retentions(s3: S3Client, lock_bucket: str) -> None:
    s3.put_object(Bucket=lock_bucket, Key="k", Body=b"x")
    bad: Any
    for bad in ({"Mode": "abc", "RetainUntilDate": SOON}, {"Mode": "governance", "RetainUntilDate": SOON}):
        with refused(400, "MalformedXML"):
            s3.put_object_retention(Bucket=lock_bucket, Key="k", Retention=bad)
    past: Any = {"Mode": "GOVERNANCE", "RetainUntilDate": SOON - timedelta(days=3)}
    with refused(400, "InvalidArgument"):
        s3.put_object_retention(Bucket=lock_bucket, Key="k", Retention=past)
    with refused(400, "InvalidArgument"):
        s3.put_object(Bucket=lock_bucket, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE")
    with refused(404, "NoSuchKey"):
        s3.get_object_retention(Bucket=lock_bucket, Key="none")


def test_lock_headers_need_a_digest(server: Any, lock_bucket: str) -> None:
    plain = server.s3(request_checksum_calculation="when_required")
    plain.meta.events.register(
        "before-sign.s3.PutObject", lambda request, **_: request.headers.__delitem__("Content-MD5")
    )
    options = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": SOON}
    with refused(400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required"):
        plain.put_object(Bucket=lock_bucket, Key="k", Body=b"x", **options)
