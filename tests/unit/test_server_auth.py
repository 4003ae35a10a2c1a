"""Signature V4 against the examples of AWS's own documentation, and chunk signatures that do not hold."""

from __future__ import annotations

import calendar

import pytest

from b2fs.server.auth.checksums import Checksum
from b2fs.server.auth.chunked import ChunkedDecoder
from b2fs.server.auth.keys import Account, ApplicationKey
from b2fs.server.auth.sigv4 import Verified, verify
from b2fs.server.wire.errors import S3Error
from b2fs.server.wire.request import Request

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
NOW_S = calendar.timegm((2013, 5, 24, 0, 1, 0))
CREDENTIAL = f"{KEY_ID}/20130524/us-east-1/s3/aws4_request"
HOST = "examplebucket.s3.amazonaws.com"


class Keys:
    """The one key of the examples."""

    def s3_key(self, key_id: str) -> ApplicationKey:
        assert key_id == KEY_ID
        return ApplicationKey(key_id, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", Account("0" * 12, "example"))


def check(request: Request) -> Verified:
    verified = verify(request, Keys(), "us-east-1", NOW_S)
    assert verified is not None
    return verified


def authorization(signed: str, signature: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential={CREDENTIAL},SignedHeaders={signed},Signature={signature}"


def test_get_object_example() -> None:
    headers = {
        "host": HOST,
        "range": "bytes=0-9",
        "x-amz-date": "20130524T000000Z",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "authorization": authorization(
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
    }
    check(Request("GET", "/test.txt", "", headers))
    with pytest.raises(S3Error, match="Signature validation failed"):
        check(Request("GET", "/test.txt", "", headers | {"range": "bytes=0-10"}))


def test_presigned_example() -> None:
    query = (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F"
        "aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature="
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    check(Request("GET", "/test.txt", query, {"host": HOST}))
    with pytest.raises(S3Error, match="Signature validation failed"):
        check(Request("GET", "/test.txt", query.replace("86400", "86401"), {"host": HOST}))


CHUNKED = Request(
    "PUT",
    "/examplebucket/chunkObject.txt",
    "",
    {
        "host": "s3.amazonaws.com",
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "content-length": "66824",
        "authorization": authorization(
            "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;"
            "x-amz-storage-class",
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        ),
    },
)
SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)


def chunked_body(signatures: tuple[str, ...]) -> bytes:
    pieces = (b"a" * 65536, b"a" * 1024, b"")
    return b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (len(piece), signature.encode(), piece)
        for piece, signature in zip(pieces, signatures, strict=True)
    )


def test_chunked_upload_example() -> None:
    decoder = ChunkedDecoder.for_request(CHUNKED, check(CHUNKED), ())
    body = chunked_body(SIGNATURES)
    assert len(body) == 66824
    content = b"".join(decoder.feed(body[start : start + 1000]) for start in range(0, len(body), 1000))
    decoder.finish()
    assert content == b"a" * 66560


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_wrong_chunk_signature_is_refused(number: int) -> None:
    decoder = ChunkedDecoder.for_request(CHUNKED, check(CHUNKED), ())
    wrong = list(SIGNATURES)
    wrong[number] = "0" * 64
    with pytest.raises(S3Error, match="Signature validation failed"):
        decoder.feed(chunked_body(tuple(wrong)))


def test_a_body_that_ends_too_early_is_refused() -> None:
    decoder = ChunkedDecoder.for_request(CHUNKED, check(CHUNKED), ())
    decoder.feed(chunked_body(SIGNATURES)[:66000])
    with pytest.raises(S3Error) as caught:
        decoder.finish()
    assert caught.value.code == "IncompleteBody"


TRAILER = Request(
    "PUT",
    "/examplebucket/chunkObject.txt",
    "",
    {
        "host": "s3.amazonaws.com",
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "x-amz-trailer": "x-amz-checksum-crc32c",
        "authorization": authorization(
            "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;"
            "x-amz-trailer",
            "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
        ),
    },
)
TRAILER_SIGNATURES = (
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_LINES = (
    b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
)


def decode_trailer(lines: bytes) -> None:
    checksums = Checksum.from_headers(TRAILER.headers)
    decoder = ChunkedDecoder.for_request(TRAILER, check(TRAILER), checksums)
    # The last chunk has no line end of its own: the trailer follows at once.
    content = decoder.feed(chunked_body(TRAILER_SIGNATURES).removesuffix(b"\r\n") + lines)
    decoder.finish()
    checksums[0].update(content)
    checksums[0].check()


def test_signed_trailer_example() -> None:
    decode_trailer(TRAILER_LINES)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (TRAILER_LINES.replace(b"d81f", b"0000"), "SignatureDoesNotMatch"),
        (TRAILER_LINES.replace(b"sOO8", b"AAAA"), "SignatureDoesNotMatch"),
        (b"x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n", "SignatureDoesNotMatch"),
        (b"x: y\r\n" * 40 + b"\r\n", "InvalidRequest"),
    ],
)
def test_trailers_that_do_not_hold(lines: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        decode_trailer(lines)
    assert caught.value.code == code
