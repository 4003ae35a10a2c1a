"""Buckets and their settings: names, owners, ACL, CORS, default encryption, location, versioning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.server.errors import refused
from tests.server.harness import Authority, Server, run_server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"


def test_create_list_delete(s3: S3Client, bucket: str) -> None:
    assert bucket in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused(404, "404"):
        s3.head_bucket(Bucket=bucket)
    with refused(404, "NoSuchBucket"):
        s3.delete_bucket(Bucket=bucket)


def test_list_buckets_in_pages(other: S3Client) -> None:
    names = [f"page-{number}-of-other" for number in range(3)]
    for name in names:
        other.create_bucket(Bucket=name)
    first = other.list_buckets(MaxBuckets=2, Prefix="page-")
    assert [item["Name"] for item in first["Buckets"]] == names[:2]
    rest = other.list_buckets(MaxBuckets=2, Prefix="page-", ContinuationToken=first["ContinuationToken"])
    assert [item["Name"] for item in rest["Buckets"]] == names[2:]
    assert "ContinuationToken" not in rest


@pytest.mark.parametrize("name", ["short", "Has_Underscore", "b2-reserved", "dotted.name", "x" * 64])
def test_bad_names(server: Server, name: str) -> None:
    # boto3 checks some names on its own; the wire does not.
    s3 = server.s3()
    s3.meta.events.unregister("before-parameter-build.s3", None)
    with pytest.raises(Exception, match=r"InvalidBucketName|Invalid bucket name"):
        s3.create_bucket(Bucket=name)


def test_names_are_taken(other: S3Client, bucket: str) -> None:
    with refused(409, "BucketAlreadyExists"):
        other.create_bucket(Bucket=bucket)


def test_making_a_bucket_again_changes_nothing(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.create_bucket(Bucket=bucket)["Location"] == f"/{bucket}"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    with refused(409, "BucketAlreadyExists"):
        s3.create_bucket(Bucket=bucket, ACL="public-read")
    with refused(409, "BucketAlreadyExists"):
        s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    assert len(s3.get_bucket_acl(Bucket=bucket)["Grants"]) == 1


def test_elsewhere_a_bucket_is_made_once(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority, ["--region", "eu-central-003"]) as elsewhere:
        s3 = elsewhere.s3(region="eu-central-003")
        made: Any = {"CreateBucketConfiguration": {"LocationConstraint": "eu-central-003"}}
        s3.create_bucket(Bucket="made-once", **made)
        with refused(409, "BucketAlreadyOwnedByYou"):
            s3.create_bucket(Bucket="made-once", **made)
        location: str = s3.get_bucket_location(Bucket="made-once")["LocationConstraint"]
        assert location == "eu-central-003"


def test_location(s3: S3Client, bucket: str) -> None:
    assert s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") is None
    with refused(400, "InvalidLocationConstraint"):
        s3.create_bucket(Bucket="elsewhere-1", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})


def test_versioning_is_always_enabled(s3: S3Client, bucket: str) -> None:
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"


def test_only_empty_buckets_are_deleted(s3: S3Client, bucket: str) -> None:
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    with refused(409, "BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket)
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    with refused(409, "BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket)
    for version_id in (version, marker):
        s3.delete_object(Bucket=bucket, Key="k", VersionId=version_id)
    s3.delete_bucket(Bucket=bucket)


# --- owners and ACL


def test_another_account_sees_nothing(s3: S3Client, other: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert bucket not in [item["Name"] for item in other.list_buckets()["Buckets"]]
    with refused(403, "AccessDenied"):
        other.get_object(Bucket=bucket, Key="k")
    with refused(403, "AccessDenied"):
        other.list_objects_v2(Bucket=bucket)
    with refused(403, "AccessDenied"):
        other.put_object(Bucket=bucket, Key="k", Body=b"y")
    with refused(403, "AccessDenied"):
        other.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]})


def test_acl_of_buckets(s3: S3Client, other: S3Client, server: Server, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    private = s3.get_bucket_acl(Bucket=bucket)
    assert [grant["Permission"] for grant in private["Grants"]] == ["FULL_CONTROL"]
    assert (
        private["Grants"][0]["Grantee"].get("ID") == private["Owner"].get("ID") == s3.list_buckets()["Owner"].get("ID")
    )
    assert server.request("GET", f"/{bucket}/k")[0] == 403
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    grants = s3.get_bucket_acl(Bucket=bucket)["Grants"]
    assert {(grant["Grantee"].get("URI"), grant["Permission"]) for grant in grants} == {
        (None, "FULL_CONTROL"),
        (ALL_USERS, "READ"),
    }
    assert server.request("GET", f"/{bucket}/k")[::2] == (200, b"x")
    assert other.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert server.request("PUT", f"/{bucket}/k", b"y")[0] == 403
    with refused(403, "AccessDenied"):
        other.put_object(Bucket=bucket, Key="k", Body=b"y")
    with refused(400, "InvalidArgument", "Unsupported value for canned acl 'public-read-write'"):
        s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")


def test_acl_by_grants(s3: S3Client, bucket: str) -> None:
    policy: Any = {key: value for key, value in s3.get_bucket_acl(Bucket=bucket).items() if key != "ResponseMetadata"}
    policy["Grants"].append({"Grantee": {"Type": "Group", "URI": ALL_USERS}, "Permission": "READ"})
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    assert len(s3.get_bucket_acl(Bucket=bucket)["Grants"]) == 2
    policy["Grants"][1]["Permission"] = "WRITE"
    with refused(400, "InvalidArgument"):
        s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    policy["Grants"][1] = {
        "Grantee": {"Type": "AmazonCustomerByEmail", "EmailAddress": "nobody@example.com"},
        "Permission": "READ",
    }
    with refused(400, "UnresolvableGrantByEmailAddress"):
        s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)


def test_acl_of_objects_is_the_buckets(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="private")
    assert s3.get_object_acl(Bucket=bucket, Key="k")["Grants"] == s3.get_bucket_acl(Bucket=bucket)["Grants"]
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    with refused(400, "InvalidArgument", "Unsupported value for canned acl 'public-read'"):
        s3.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
    with refused(404, "NoSuchKey"):
        s3.get_object_acl(Bucket=bucket, Key="none")


# --- CORS


def test_cors(s3: S3Client, server: Server, bucket: str) -> None:
    with refused(404, "NoSuchCORSConfiguration"):
        s3.get_bucket_cors(Bucket=bucket)
    rule: Any = {
        "AllowedMethods": ["GET", "PUT"],
        "AllowedOrigins": ["https://*.example.com"],
        "AllowedHeaders": ["x-amz-*"],
        "ExposeHeaders": ["etag"],
        "MaxAgeSeconds": 60,
    }
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == [rule]
    asked = {"Origin": "https://a.example.com", "Access-Control-Request-Method": "PUT"}
    status, headers, _ = server.request("OPTIONS", f"/{bucket}/k", headers=asked)
    assert status == 200
    assert headers["access-control-allow-origin"] == "https://a.example.com"
    assert headers["access-control-allow-methods"] == "GET, PUT"
    assert headers["access-control-max-age"] == "60"
    wanted = asked | {"Access-Control-Request-Headers": "x-amz-date, X-Amz-Meta-a"}
    assert (
        server.request("OPTIONS", f"/{bucket}/k", headers=wanted)[1]["access-control-allow-headers"]
        == "x-amz-date, x-amz-meta-a"
    )
    assert (
        server.request("OPTIONS", f"/{bucket}/k", headers=wanted | {"Access-Control-Request-Headers": "cookie"})[0]
        == 403
    )
    assert server.request("OPTIONS", f"/{bucket}/k", headers=asked | {"Origin": "https://evil.com"})[0] == 403
    assert (
        server.request("OPTIONS", f"/{bucket}/k", headers=asked | {"Access-Control-Request-Method": "DELETE"})[0] == 403
    )
    assert server.request("OPTIONS", f"/{bucket}/k")[0] == 400
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    status, headers, _ = server.request("GET", f"/{bucket}/none", headers={"Origin": "https://b.example.com"})
    assert (status, headers["access-control-allow-origin"]) == (404, "https://b.example.com")
    assert headers["access-control-expose-headers"] == "etag"
    status, headers, _ = server.request("PUT", f"/{bucket}/k", b"", {"Origin": "https://b.example.com"})
    assert (status, headers["access-control-allow-origin"]) == (403, "https://b.example.com")
    s3.delete_bucket_cors(Bucket=bucket)
    with refused(404, "NoSuchCORSConfiguration"):
        s3.get_bucket_cors(Bucket=bucket)


def test_bad_cors(s3: S3Client, bucket: str) -> None:
    rule: Any = {"AllowedMethods": ["PATCH"], "AllowedOrigins": ["*"]}
    with refused(400, "InvalidRequest"):
        s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})


# --- default encryption


def test_default_encryption(s3: S3Client, bucket: str) -> None:
    with refused(404, "ServerSideEncryptionConfigurationNotFoundError"):
        s3.get_bucket_encryption(Bucket=bucket)
    rules: Any = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)
    found = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert found["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ServerSideEncryption"] == "AES256"
    assert s3.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == "AES256"
    s3.delete_bucket_encryption(Bucket=bucket)
    assert "ServerSideEncryption" not in s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    rules["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] = "aws:kms"
    with refused(400, "InvalidArgument"):
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=rules)


def test_virtual_host_style(server: Server, s3: S3Client, bucket: str) -> None:
    """By signed URLs with a Host header: the names below localhost need not resolve."""
    virtual = server.s3(host="localhost", s3={"addressing_style": "virtual"}, signature_version="s3v4")
    put = urlsplit(virtual.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "a/b c"}))
    assert put.netloc == f"{bucket}.localhost:{server.port}"
    assert server.request("PUT", f"{put.path}?{put.query}", b"virtual", {"Host": put.netloc})[0] == 200
    assert s3.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == b"virtual"
    listing = urlsplit(virtual.generate_presigned_url("list_objects_v2", {"Bucket": bucket}))
    status, _, body = server.request("GET", f"{listing.path}?{listing.query}", headers={"Host": listing.netloc})
    assert (status, b"<Key>a/b%20c</Key>" in body) == (200, True)
