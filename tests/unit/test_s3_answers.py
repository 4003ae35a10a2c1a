"""Answers of HTTP: whole ones are understood however they arrive, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.store.s3.answers import MAX_ERROR_BYTES, MAX_HEAD_BYTES, AnswerReader, BadAnswer, Response

PLAIN = b'HTTP/1.1 200 OK\r\nETag: "abc"\r\ncontent-Length:5 \r\n\r\nhello'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n002\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


def read(data: bytes, *, method: str = "GET", pieces: int = 1) -> AnswerReader:
    """The reader after `data` has arrived in so many pieces."""
    reader = AnswerReader(method)
    step = max(1, -(-len(data) // pieces))
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    return reader


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, INTERIM + PLAIN, INTERIM + CHUNKED])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
def test_a_whole_answer_however_it_is_cut_in_pieces(answer: bytes, pieces: int) -> None:
    reader = read(answer, pieces=pieces)
    assert reader.complete
    assert reader.reusable
    response = reader.response()
    assert (response.status, response.body) == (200, b"hello")


def test_headers_are_by_lower_case_name() -> None:
    assert read(PLAIN).response() == Response(200, {"etag": '"abc"', "content-length": "5"}, b"hello")


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, INTERIM + PLAIN])
def test_no_beginning_of_an_answer_is_one(answer: bytes) -> None:
    for length in range(len(answer)):
        reader = read(answer[:length])
        assert not reader.complete
        assert reader.begun == (length > 0)
        with pytest.raises(BadAnswer, match="cut"):
            reader.finish()


def test_interim_answers_in_any_number() -> None:
    reader = read(b"HTTP/1.1 102 \r\n\r\n" * 20_000 + PLAIN)
    assert reader.complete
    assert reader.response().body == b"hello"


@pytest.mark.parametrize(
    ("head", "method"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 304 \r\nContent-Length: 4096\r\n\r\n", "GET"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "PUT"),
    ],
)
def test_answers_without_a_body(head: bytes, method: str) -> None:
    reader = read(head, method=method)
    assert reader.complete
    assert reader.reusable
    assert reader.response().body == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: TE, Close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n",
        CHUNKED + b"HTTP/1.1 200 OK\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1),
    ],
    ids=["close", "among others", "1.0", "answered twice", "chunks and more", "two lengths"],
)
def test_a_whole_answer_after_which_the_connection_is_not_used_again(answer: bytes) -> None:
    reader = read(answer)
    assert reader.complete
    assert not reader.reusable
    assert reader.response().body == b"hello"


def test_a_body_up_to_the_end_of_the_stream() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nhel")
    reader.feed(b"lo")
    complete = [reader.complete]
    reader.finish()
    assert [*complete, reader.complete] == [False, True]
    assert not reader.reusable
    assert reader.response().body == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nETag: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 0x1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES,
    ],
)
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(answer)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_of_an_error_is_read_up_to_a_bound(chunked: bool) -> None:
    head = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 9999999999"
    reader = read(b"HTTP/1.1 403 No\r\n" + head + b"\r\n\r\n")
    for _ in range(3 + MAX_ERROR_BYTES // 1000):
        if not reader.complete:
            reader.feed(b"3e8\r\n" + bytes(1000) + b"\r\n" if chunked else bytes(1000))
    assert reader.complete
    assert not reader.reusable
    assert MAX_ERROR_BYTES <= len(reader.response().body) <= MAX_ERROR_BYTES + 1000


@given(body=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=6), sizes=st.lists(st.integers(1, 90)))
def test_any_body_in_any_pieces(body: bytes, cuts: list[int], sizes: list[int]) -> None:
    chunks, at = b"", 0
    for size in [*sizes, len(body)]:
        if piece := body[at : at + size]:
            chunks += b"%x\r\n%s\r\n" % (len(piece), piece)
            at += size
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % chunks,
    ):
        reader, last = AnswerReader("GET"), 0
        for cut in sorted({*(cut for cut in cuts if 0 < cut < len(answer)), len(answer)}):
            assert not reader.complete
            reader.feed(answer[last:cut])
            last = cut
        assert reader.complete
        assert reader.reusable
        assert reader.response().body == body


@pytest.mark.parametrize("size", [1000, 200_000])
@pytest.mark.parametrize("fed", [0, 1, 1000])
def test_a_large_body_is_received_where_it_stays(size: int, fed: int) -> None:
    body = bytes(range(250)) * (size // 250)
    reader = AnswerReader("GET", slabs=True)
    reader.feed(b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n%s" % (size, body[:fed]))
    at = fed
    while (room := reader.room) is not None:
        assert not reader.complete
        with pytest.raises(BadAnswer):
            reader.finish()
        assert len(room) == size - at
        part = body[at : at + 70_000]
        room[: len(part)] = part
        reader.received(len(part))
        at += len(part)
    if size == 1000:
        reader.feed(body[at:])
    response = reader.response()
    assert reader.complete
    assert reader.reusable
    assert bytes(response.content) == body
    assert (response.large is not None) == (size > 1000), "small ones are bytes"


def test_only_what_is_asked_for_and_a_success_is_received_so() -> None:
    for status, slabs in ((200, False), (404, True)):
        reader = AnswerReader("GET", slabs=slabs)
        reader.feed(b"HTTP/1.1 %d X\r\nContent-Length: 200000\r\n\r\n" % status)
        assert reader.room is None
