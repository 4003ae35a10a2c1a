"""ListObjects, ListObjectsV2, ListObjectVersions: order, paging, delimiters, encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.server.errors import refused
from tests.server.harness import Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEYS = ["asdf", "boo/bar", "boo/baz/xyzzy", "cquux/bla", "cquux/thud", "z"]


@pytest.fixture
def filled(s3: S3Client, bucket: str) -> str:
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def names(answer: Any) -> tuple[list[str], list[str]]:
    keys = [item["Key"] for item in answer.get("Contents", [])]
    return keys, [item["Prefix"] for item in answer.get("CommonPrefixes", [])]


def test_both_listings_are_in_key_order(s3: S3Client, filled: str) -> None:
    assert names(s3.list_objects(Bucket=filled))[0] == KEYS
    answer = s3.list_objects_v2(Bucket=filled, FetchOwner=True)
    assert names(answer)[0] == KEYS
    assert (answer["KeyCount"], answer["IsTruncated"], answer["MaxKeys"]) == (6, False, 1000)
    item = answer["Contents"][0]
    head = s3.head_object(Bucket=filled, Key="asdf")
    assert (item["ETag"], item["Size"], item["LastModified"]) == (head["ETag"], 4, head["LastModified"])
    assert item["Owner"]["ID"] == s3.list_buckets()["Owner"]["ID"]


def test_v1_pages_by_marker(s3: S3Client, filled: str) -> None:
    first = s3.list_objects(Bucket=filled, MaxKeys=2)
    assert names(first)[0] == KEYS[:2]
    assert "NextMarker" not in set(first)
    rest = s3.list_objects(Bucket=filled, Marker=KEYS[1])
    assert (rest["Marker"], names(rest)[0]) == (KEYS[1], KEYS[2:])


def test_v1_pages_with_a_delimiter(s3: S3Client, filled: str) -> None:
    pages, marker = [], ""
    while True:
        answer = s3.list_objects(Bucket=filled, Delimiter="/", MaxKeys=1, Marker=marker)
        pages.append(names(answer))
        if not answer["IsTruncated"]:
            break
        marker = answer["NextMarker"]
    assert pages == [(["asdf"], []), ([], ["boo/"]), ([], ["cquux/"]), (["z"], [])]


def test_v2_pages_by_token(s3: S3Client, filled: str) -> None:
    pages, token = [], None
    while True:
        options: Any = {"ContinuationToken": token} if token else {}
        answer = s3.list_objects_v2(Bucket=filled, Delimiter="/", MaxKeys=2, **options)
        pages.append((*names(answer), answer["KeyCount"]))
        if not answer["IsTruncated"]:
            break
        token = answer["NextContinuationToken"]
    assert pages == [(["asdf"], ["boo/"], 2), (["z"], ["cquux/"], 2)]
    assert answer["ContinuationToken"] == token


def test_prefix_delimiter_and_start_after(s3: S3Client, filled: str) -> None:
    assert names(s3.list_objects_v2(Bucket=filled, Prefix="boo/", Delimiter="/")) == (["boo/bar"], ["boo/baz/"])
    assert names(s3.list_objects_v2(Bucket=filled, Delimiter="u")) == (
        ["asdf", "boo/bar", "boo/baz/xyzzy", "z"],
        ["cqu"],
    )
    assert names(s3.list_objects_v2(Bucket=filled, StartAfter="boo/bar"))[0] == KEYS[2:]
    assert names(s3.list_objects_v2(Bucket=filled, Prefix="none")) == ([], [])
    empty = s3.list_objects_v2(Bucket=filled, Delimiter="")
    assert "Delimiter" not in set(empty)
    assert names(empty)[0] == KEYS


def test_odd_prefixes_come_back_as_they_were_asked(s3: S3Client, filled: str) -> None:
    for prefix in ("\n", "a b+c/%", "ü"):
        assert s3.list_objects(Bucket=filled, Prefix=prefix)["Prefix"] == prefix
        assert s3.list_objects_v2(Bucket=filled, Prefix=prefix)["Prefix"] == prefix
        assert s3.list_object_versions(Bucket=filled, Prefix=prefix)["Prefix"] == prefix


def test_page_sizes(s3: S3Client, filled: str) -> None:
    none = s3.list_objects_v2(Bucket=filled, MaxKeys=0)
    assert (none["KeyCount"], none["IsTruncated"]) == (0, False)
    assert s3.list_objects(Bucket=filled, MaxKeys=5000)["MaxKeys"] == 1000
    with refused(400, "InvalidArgument"):
        s3.list_objects(Bucket=filled, MaxKeys=-1)
    with refused(400, "InvalidArgument"):
        s3.list_objects_v2(Bucket=filled, ContinuationToken="nonsense")


def raw_list(server: Server, bucket: str, **options: Any) -> tuple[int, bytes]:
    s3 = server.s3(signature_version="s3v4")
    url = urlsplit(s3.generate_presigned_url("list_objects_v2", {"Bucket": bucket, **options}))
    status, _, body = server.request("GET", f"{url.path}?{url.query}", headers={"Host": url.netloc})
    return status, body


def test_encoding(s3: S3Client, server: Server, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a b+ü/&<c", Body=b"")
    status, body = raw_list(server, bucket, EncodingType="url", Delimiter="/")
    assert status == 200
    assert b"<Prefix>a%20b%2B%C3%BC/</Prefix>" in body
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    body = server.request("GET", f"/{bucket}")[2]
    assert "<Key>a b+ü/&amp;&lt;c</Key>".encode() in body
    status, body = raw_list(server, bucket, EncodingType="base64")
    assert (status, b"<Code>InvalidArgument</Code>" in body) == (400, True)


def test_unreadable_page_size(server: Server, bucket: str) -> None:
    s3 = server.s3(signature_version="s3v4")
    url = urlsplit(s3.generate_presigned_url("list_objects_v2", {"Bucket": bucket}))
    status, _, body = server.request("GET", f"/{bucket}?max-keys=blah", headers={"Host": url.netloc})
    assert (status, b"AccessDenied" in body or b"InvalidArgument" in body) == (400, True)


def test_versions(s3: S3Client, bucket: str) -> None:
    made = [s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]]
    made.append(s3.put_object(Bucket=bucket, Key="k", Body=b"22")["VersionId"])
    made.append(s3.delete_object(Bucket=bucket, Key="k")["VersionId"])
    last = s3.put_object(Bucket=bucket, Key="l", Body=b"3")["VersionId"]
    answer = s3.list_object_versions(Bucket=bucket)
    assert [(item["Key"], item["VersionId"], item["IsLatest"], item["Size"]) for item in answer["Versions"]] == [
        ("k", made[1], False, 2),
        ("k", made[0], False, 1),
        ("l", last, True, 1),
    ]
    marker = answer["DeleteMarkers"][0]
    assert (marker["Key"], marker["VersionId"], marker["IsLatest"]) == ("k", made[2], True)


def test_versions_stand_in_one_sequence(server: Server, s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")
    s3.delete_object(Bucket=bucket, Key="a")
    s3.put_object(Bucket=bucket, Key="b", Body=b"1")
    client = server.s3(signature_version="s3v4")
    url = urlsplit(client.generate_presigned_url("list_object_versions", {"Bucket": bucket}))
    body = server.request("GET", f"{url.path}?{url.query}", headers={"Host": url.netloc})[2].decode()
    first, second = body.index("<DeleteMarker>"), body.index("<Version>")
    assert first < second < body.index("<Key>b</Key>")


def test_versions_in_pages(s3: S3Client, bucket: str) -> None:
    made = []
    for key in ("a", "b"):
        ids = [s3.put_object(Bucket=bucket, Key=key, Body=b"x")["VersionId"] for _ in range(3)]
        made += [(key, version_id) for version_id in reversed(ids)]
    seen: list[tuple[str, str]] = []
    markers: Any = {}
    while True:
        answer = s3.list_object_versions(Bucket=bucket, MaxKeys=2, **markers)
        seen += [(item["Key"], item["VersionId"]) for item in answer["Versions"]]
        if not answer["IsTruncated"]:
            break
        markers = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}
    assert seen == made
    with refused(400, "InvalidArgument"):
        s3.list_object_versions(Bucket=bucket, VersionIdMarker=made[0][1])


def test_a_page_has_a_thousand(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="source", Body=b"x")
    for start in range(0, 1005, 1000):
        count = min(1000, 1005 - start)
        # Hide markers are the quickest way to make many versions.
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"k{start + n:05}"} for n in range(count)]})
    answer = s3.list_object_versions(Bucket=bucket)
    assert (len(answer["DeleteMarkers"]), answer["IsTruncated"]) == (1000, True)


def test_an_empty_token_starts_at_the_beginning(s3: S3Client, filled: str) -> None:
    answer = s3.list_objects_v2(Bucket=filled, ContinuationToken="")
    assert (answer["ContinuationToken"], names(answer)[0]) == ("", KEYS)
