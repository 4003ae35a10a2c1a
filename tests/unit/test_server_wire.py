"""The wire: parsing and writing by the service model, routing, chunks, heads; and that no input breaks them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from b2fs.errors import B2fsError
from b2fs.server.auth.chunked import ChunkedDecoder
from b2fs.server.auth.sigv4 import parse_signature
from b2fs.server.http.chunks import BadChunk, ChunkDecoder
from b2fs.server.http.head import BadHead, HeadParser
from b2fs.server.native.names import just_before
from b2fs.server.ops.conditions import parse_range
from b2fs.server.ops.parts import decode_sizes, encode_sizes
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.model import B2_CALLS, operations
from b2fs.server.wire.parse import parse_body, parse_head, split_copy_source
from b2fs.server.wire.request import Request
from b2fs.server.wire.route import route
from b2fs.server.wire.times import iso8601, parse_time
from b2fs.server.wire.write import escape, write_body

XML_CALLS = ["DeleteObjects", "CompleteMultipartUpload", "PutBucketCors", "PutBucketAcl", "PutObjectLockConfiguration"]


def request(method: str, target: str, **headers: str) -> Request:
    path, _, query = target.partition("?")
    return Request(method, path, query, {"host": "127.0.0.1:9000", **headers})


@pytest.mark.parametrize(
    ("method", "target", "headers", "name", "bucket", "key"),
    [
        ("GET", "/", {}, "ListBuckets", "", ""),
        ("GET", "/b", {}, "ListObjects", "b", ""),
        ("GET", "/b/", {}, "ListObjects", "b", ""),
        ("GET", "/b?list-type=2", {}, "ListObjectsV2", "b", ""),
        ("GET", "/b?list-type=1", {}, "ListObjects", "b", ""),
        ("GET", "/b?versions&prefix=x", {}, "ListObjectVersions", "b", ""),
        ("GET", "/b?uploads", {}, "ListMultipartUploads", "b", ""),
        ("GET", "/b/k?uploadId=1", {}, "ListParts", "b", "k"),
        ("PUT", "/b/k", {"x-amz-copy-source": "b/l"}, "CopyObject", "b", "k"),
        ("PUT", "/b/k?partNumber=1&uploadId=u", {}, "UploadPart", "b", "k"),
        ("PUT", "/b/k?partNumber=1&uploadId=u", {"x-amz-copy-source": "b/l"}, "UploadPartCopy", "b", "k"),
        ("POST", "/b/k?uploads", {}, "CreateMultipartUpload", "b", "k"),
        ("POST", "/b/k?uploadId=u", {}, "CompleteMultipartUpload", "b", "k"),
        ("DELETE", "/b/k?uploadId=u", {}, "AbortMultipartUpload", "b", "k"),
        ("POST", "/b?delete", {}, "DeleteObjects", "b", ""),
        ("GET", "/b/k/%2F/ü?acl", {}, "GetObjectAcl", "b", "k///ü"),
        ("GET", "/a/b", {"host": "bucket.example.com"}, "GetObject", "bucket", "a/b"),
        ("GET", "/", {"host": "bucket.example.com:80"}, "ListObjects", "bucket", ""),
        ("GET", "/a/b", {"host": "example.com"}, "GetObject", "a", "b"),
    ],
)
def test_routing(method: str, target: str, headers: dict[str, str], name: str, bucket: str, key: str) -> None:
    found = route(request(method, target, **headers), ("example.com",))
    assert (found.operation.name, found.bucket, found.key) == (name, bucket, key)


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("PATCH", "/b", "MethodNotAllowed"),
        ("POST", "/b", "MethodNotAllowed"),
        ("GET", "/b?tagging", "NotImplemented"),
        ("PUT", "/b?policy", "NotImplemented"),
        ("GET", "/b/k?attributes", "GetObject"),
    ],
)
def test_what_is_not_offered(method: str, target: str, code: str) -> None:
    if code == "GetObject":
        # The call needs a header; without it S3 takes the request for what is left.
        assert route(request(method, target), ()).operation.name == code
        return
    with pytest.raises(S3Error) as caught:
        route(request(method, target), ())
    assert caught.value.code == code


def test_all_calls_are_in_the_model() -> None:
    assert len(B2_CALLS) == 38
    assert set(operations()) >= B2_CALLS


def test_values_come_back_from_their_xml() -> None:
    body = write_body(
        operations()["ListObjectsV2"], {"Contents": [{"Key": "<&>\"'ü\r\n", "Size": 3}], "IsTruncated": True}
    )
    root = etree.fromstring(body)
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    assert root.tag == f"{space}ListBucketResult"
    assert root.findtext(f"{space}Contents/{space}Key") == "<&>\"'ü\r\n"
    assert root.findtext(f"{space}IsTruncated") == "true"


@given(st.text(st.characters(min_codepoint=32, blacklist_categories=["Cs"], blacklist_characters="\ufffe\uffff")))
def test_escaped_text_is_read_as_it_was(text: str) -> None:
    assert (etree.fromstring(f"<a>{escape(text)}</a>".encode()).text or "") == text


TAGS = ["<Delete>", "</Delete>", "<Object>", "</Object>", "<Key>", "</Key>", "<CORSRule>", "<ID/>", "<Parts>"]
ODDITIES = ["&lt;", "&x;", "<!--", "<!DOCTYPE a [", "<![CDATA[", "]]>", "<?x?>", "1", "\0", "ü", "<PartNumber>x<"]
MARKUP = st.lists(st.sampled_from([*TAGS, *ODDITIES])).map("".join)


@pytest.mark.parametrize("name", XML_CALLS)
@given(data=st.one_of(st.binary(max_size=200), MARKUP.map(str.encode)))
def test_no_body_breaks_the_parser(name: str, data: bytes) -> None:
    try:
        parse_body(operations()[name], data)
    except S3Error as error:
        assert error.code == "MalformedXML"


QUERY = st.sampled_from(
    ["uploads", "uploadId", "partNumber", "max-keys", "versions", "versionId", "acl", "X-Amz-Date", "%ff"]
)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    path=st.text(st.characters(max_codepoint=255), max_size=20),
    query=st.lists(st.tuples(QUERY, st.text(st.characters(max_codepoint=127), max_size=5)), max_size=4),
    authorization=st.text(max_size=60),
    source=st.text(max_size=20),
)
def test_no_request_breaks_the_codec(
    method: str, path: str, query: list[tuple[str, str]], authorization: str, source: str
) -> None:
    text = "&".join(f"{name}={value}" for name, value in query)
    asked = Request(method, f"/{path}", text, {"host": "h", "authorization": authorization, "x-amz-date": source})
    try:
        parse_signature(asked)
        target = route(asked, ("h",))
        parse_head(target.operation, asked, target.bucket, target.key)
        split_copy_source(source)
    except B2fsError as error:
        assert isinstance(error, S3Error)
        assert 400 <= error.status < 600


@given(st.binary(max_size=300))
def test_no_head_breaks_the_parser(data: bytes) -> None:
    try:
        HeadParser().parse(data + b"\r\n\r\n")
    except BadHead as error:
        assert error.status == 400


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_chunked_bodies_in_any_pieces(chunks: list[bytes], cuts: list[int]) -> None:
    encoded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nx: y\r\n\r\n"
    http, aws = ChunkDecoder(), ChunkedDecoder(None, trailers=True)
    got = b"".join(http.feed(piece) for piece in pieces(encoded + b"GET /", cuts))
    assert (got, http.complete, http.rest) == (b"".join(chunks), True, b"GET /")
    assert b"".join(aws.feed(piece) for piece in pieces(encoded, cuts)) == b"".join(chunks)
    aws.finish()


@given(st.binary(max_size=100))
def test_no_bytes_break_the_chunk_decoders(data: bytes) -> None:
    try:
        ChunkDecoder().feed(data)
    except BadChunk:
        pass
    decoder = ChunkedDecoder(None, trailers=True)
    try:
        decoder.feed(data)
        decoder.finish()
    except S3Error as error:
        assert error.status == 400


@given(st.text(max_size=20), st.integers(0, 1000))
def test_ranges_lie_inside(text: str, size: int) -> None:
    try:
        found = parse_range(f"bytes={text}", size)
    except S3Error as error:
        assert error.code == "InvalidRange"
        return
    assert found is None or 0 <= found[0] < found[1] <= size


KEYS = st.text(st.characters(min_codepoint=32, blacklist_categories=["Cs"]), min_size=1, max_size=4)


@given(KEYS, KEYS)
def test_just_before_lies_between_all_smaller_keys_and_the_name(name: str, other: str) -> None:
    before = just_before(name)
    assert before is None or before.encode() < name.encode()
    if other.encode() < name.encode():
        assert before is not None
        assert other.encode() <= before.encode()


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30))
def test_part_sizes_come_back(sizes: list[int]) -> None:
    assert decode_sizes(encode_sizes(sizes)) == sizes


@given(st.integers(0, 4_000_000_000_000))
def test_times_come_back(ms: int) -> None:
    assert parse_time(iso8601(ms)) == ms
