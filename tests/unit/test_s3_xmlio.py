"""Answers of S3 servers, to the letter and in the variations that servers allow themselves."""

from __future__ import annotations

import pytest
from lxml import etree

from b2fs.core.types import ETag, PartInfo, VersionId
from b2fs.errors import CorruptBody
from b2fs.store.s3 import xmlio

NAMESPACES = ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"']


def contents(key: str, size: int = 5, etag: str = "&quot;abc&quot;") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-11-21T13:42:03.123Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>{size}</Size></Contents>"
    )


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_page_of_objects(namespace: str) -> None:
    page = xmlio.parse_objects(
        f"""<?xml version="1.0"?><ListBucketResult{namespace}><IsTruncated>true</IsTruncated>
        <EncodingType>url</EncodingType><NextContinuationToken>t=1</NextContinuationToken>
        {contents("d%2Fa+b%2Bc%25")}{contents("%C3%BC%0Anext")}
        <CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes></ListBucketResult>""".encode()
    )
    assert [item.key for item in page.objects] == ["d/a b+c%", "ü\nnext"]
    assert page.objects[0].ref.etag == "abc"
    assert page.objects[0].size == 5
    assert page.objects[0].modified_ns == 1_795_268_523_123_000_000
    assert page.prefixes == ("p/",)
    assert page.next_token == "t=1"


def test_keys_are_taken_as_they_are_without_encoding() -> None:
    page = xmlio.parse_objects(
        f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents('a%20b+c')}</ListBucketResult>".encode()
    )
    assert page.objects[0].key == "a%20b+c"
    assert page.next_token is None


def test_rows_that_lack_fields() -> None:
    page = xmlio.parse_objects(
        f"<ListBucketResult>{contents('a')}{contents('b', etag='')}{contents('c')}</ListBucketResult>".encode()
    )
    assert [(item.key, item.ref.etag) for item in page.objects] == [("a", "abc"), ("b", ""), ("c", "abc")]


def test_a_page_sorted_by_encoded_keys_is_put_in_order() -> None:
    page = xmlio.parse_objects(
        f"<ListBucketResult><EncodingType>url</EncodingType>{contents('%C3%A9')}{contents('B')}{contents('a')}</ListBucketResult>".encode()
    )
    assert [item.key for item in page.objects] == ["B", "a", "é"]


def test_versions_and_markers_keep_their_order() -> None:
    page = xmlio.parse_versions(
        b"""<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker>
        <NextVersionIdMarker>v1</NextVersionIdMarker>
        <DeleteMarker><Key>a</Key><VersionId>v2</VersionId><IsLatest>true</IsLatest>
        <LastModified>2026-11-21T13:42:03Z</LastModified></DeleteMarker>
        <Version><Key>a</Key><VersionId>v1</VersionId><IsLatest>false</IsLatest><ETag>"e"</ETag><Size>7</Size>
        <LastModified>2026-11-21T13:42:03Z</LastModified></Version>
        <Version><Key>b</Key><VersionId>null</VersionId><IsLatest>true</IsLatest><ETag>"e"</ETag><Size>7</Size>
        <LastModified>2026-11-21T13:42:03Z</LastModified></Version></ListVersionsResult>"""
    )
    rows = [(row.ref.version_id, row.is_hide_marker, row.is_latest) for row in page.versions]
    # The version "null" may change its content, so it is no name for it.
    assert rows == [("v2", True, True), ("v1", False, False), (None, False, True)]
    assert (page.next_key_marker, page.next_version_marker) == ("a", "v1")


def test_a_part_that_was_uploaded_again_counts_once() -> None:
    part = "<Part><PartNumber>1</PartNumber><ETag>{}</ETag><Size>5</Size><LastModified>{}</LastModified></Part>"
    body = (
        "<ListBucketResult>"
        + part.format("new", "2026-01-01T00:00:02Z")
        + part.format("old", "2026-01-01T00:00:01Z")
        + "</ListBucketResult>"
    )
    assert xmlio.parse_parts(body.encode()) == ([PartInfo(1, ETag("new"), 5)], None)


def test_keys_survive_the_way_into_a_request_body() -> None:
    keys = ["a<b>&\"'", "tab\tline\nreturn\r", "ü😀"]
    body = xmlio.delete_body([(key, VersionId("v")) for key in keys])
    assert [element.text for element in etree.fromstring(body).iter("{*}Key")] == keys


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"no XML at all",
        b"<a><b></a>",
        b"<html><body>login</body></html>",
        b"<Error><Code>x</Code></Error>",
    ],
)
def test_what_is_no_answer(body: bytes) -> None:
    """An empty directory least of all."""
    with pytest.raises(CorruptBody):
        xmlio.parse_objects(body)
    with pytest.raises(CorruptBody):
        xmlio.parse_made_etag(body)


def test_a_listing_that_ends_and_says_that_it_does_not() -> None:
    body = b"<ListResult><IsTruncated>true</IsTruncated></ListResult>"
    for parse in (xmlio.parse_objects, xmlio.parse_versions, xmlio.parse_uploads, xmlio.parse_parts):
        with pytest.raises(CorruptBody):
            parse(body)


def test_entities_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><Error><Code>&a;</Code><Message>m</Message></Error>'
    assert "aaaaaaaaaa" not in xmlio.parse_error(bomb)[0]


@pytest.mark.parametrize(("text", "expected"), [('"a"', "a"), ("a", "a"), ('W/"a"', "a"), ("", "")])
def test_etags(text: str, expected: str) -> None:
    assert xmlio.unquote_etag(text) == expected
