"""The HTTP front: bad input, slow and silent clients, many of them, and what is never let through."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.harness import Authority, Server, run_server
from tests.server.test_auth import signed


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    """Plain HTTP, so that tests can speak byte by byte."""
    with run_server(tmp_path_factory.mktemp("plain"), authority, insecure=True) as running:
        running.s3().create_bucket(Bucket="plain-bucket")
        yield running


def talk(server: Server, data: bytes, *, shut: bool = False) -> bytes:
    """Send bytes, and read until the server closes or is silent for a moment after its answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while True:
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                return answer
            if not piece:
                return answer
            answer += piece
            connection.settimeout(1.0)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting\r\n\r\n",
    ],
)
def test_malformed_requests_get_an_answer_or_a_close(plain: Server, data: bytes) -> None:
    answer = talk(plain, data)
    assert answer == b"" or answer.split(b"\r\n")[0] in (
        b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 403 Forbidden"
    ), answer[:200]  # fmt: skip
    assert b"Traceback" not in answer
    assert talk(plain, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n\r\n", b"403"),
    ],
)
def test_a_request_names_one_host(plain: Server, data: bytes, status: bytes) -> None:
    answer = talk(plain, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status), answer
    named = re.search(rb"x-amz-request-id: (\w+)", head)
    assert named is not None
    assert b"<RequestId>" + named[1] + b"</RequestId>" in body


def test_pipelined_requests_are_answered_in_order(plain: Server) -> None:
    answer = talk(plain, b"GET /plain-bucket HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 403 Forbidden") == 3


#: Kept in memory, and written to a file while it comes.
SIZES = [100_000, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_cut_body_leaves_nothing(plain: Server, size: int) -> None:
    headers = signed(plain, "PUT", "/plain-bucket/cut", b"x" * size)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    data = f"PUT /plain-bucket/cut HTTP/1.1\r\nHost: 127.0.0.1:{plain.port}\r\nContent-Length: {size}\r\n{head}\r\n"
    answer = talk(plain, data.encode() + b"x" * (size // 2), shut=True)
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 400") and b"IncompleteBody" in answer)
    assert "Contents" not in plain.s3().list_objects_v2(Bucket="plain-bucket", Prefix="cut")
    assert list((plain.directory / "store" / "incoming").iterdir()) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_malformed_chunk_is_the_clients_fault(plain: Server, size: int) -> None:
    given = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": str(size)}
    body = b"%x\r\n%b\r\nnonsense\r\n" % (size // 2, b"x" * (size // 2))
    headers = signed(plain, "PUT", "/plain-bucket/torn", b"", given)
    status, _, answer = plain.request("PUT", "/plain-bucket/torn", body, headers)
    assert (status, b"<Code>Inc" in answer or b"<Code>Invalid" in answer) == (400, True), answer
    assert list((plain.directory / "store" / "incoming").iterdir()) == []


@pytest.mark.parametrize("size", [(256 << 10) + 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_body_may_come_in_any_pieces(plain: Server, size: int) -> None:
    body = os.urandom(size)
    headers = signed(plain, "PUT", "/plain-bucket/pieces", body)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    data = f"PUT /plain-bucket/pieces HTTP/1.1\r\nHost: 127.0.0.1:{plain.port}\r\nContent-Length: {size}\r\n{head}\r\n"
    with socket.create_connection(("127.0.0.1", plain.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(data.encode() + body[:7])
        for start, end in ((7, 8), (8, 70_000), (70_000, size - 1), (size - 1, size)):
            connection.sendall(body[start:end])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert plain.s3().get_object(Bucket="plain-bucket", Key="pieces")["Body"].read() == body


def test_a_refused_large_body_frees_the_connection_s_task(plain: Server) -> None:
    body = b"x" * (3 << 20)
    headers = signed(plain, "PUT", "/plain-bucket/refused", body, {"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="})
    for _ in range(3):
        status, _, answer = plain.request("PUT", "/plain-bucket/refused", body, headers)
        assert (status, b"<Code>BadDigest</Code>" in answer) == (400, True)
    assert list((plain.directory / "store" / "incoming").iterdir()) == []


def test_expect_continue(plain: Server) -> None:
    headers = signed(plain, "PUT", "/plain-bucket/expected", b"hello")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", plain.port), timeout=60) as connection:
        connection.sendall(
            f"PUT /plain-bucket/expected HTTP/1.1\r\nHost: 127.0.0.1:{plain.port}\r\nContent-Length: 5\r\n"
            f"Expect: 100-continue\r\n{head}\r\n".encode()
        )
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_chunked_transfer(plain: Server) -> None:
    headers = signed(plain, "PUT", "/plain-bucket/chunked", b"hello world")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head += f"Host: 127.0.0.1:{plain.port}\r\nTransfer-Encoding: chunked\r\n"
    data = f"PUT /plain-bucket/chunked HTTP/1.1\r\n{head}\r\n"
    assert talk(plain, data.encode() + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert plain.s3().get_object(Bucket="plain-bucket", Key="chunked")["Body"].read() == b"hello world"


BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<Delete><Object><Key>&b;</Key></Object></Delete>"""
EXTERNAL = (
    b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><Delete><Object><Key>&a;</Key></Object></Delete>"""
)


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        EXTERNAL,
        b"",
        b"<Delete>",
        b"<Other/>",
        b"<Delete/>",
        b"\xff\xfe",
        b"<a>" * 3000,
        b"{}",
        b"<Delete>\0</Delete>",
    ],
)
def test_bad_xml(plain: Server, body: bytes) -> None:
    headers = signed(plain, "POST", "/plain-bucket?delete=", body)
    status, _, answer = plain.request("POST", "/plain-bucket?delete=", body, headers)
    assert (status, b"<Code>MalformedXML</Code>" in answer) == (400, True), answer


@pytest.mark.parametrize("path", ["/plain-bucket?max-keys={}", "/plain-bucket/k?uploadId={{}}&part-number-marker={}"])
@pytest.mark.parametrize("number", ["2147483648", "99999999999999999999", "9" * 5000])
def test_numbers_that_no_integer_holds(plain: Server, path: str, number: str) -> None:
    upload = plain.s3().create_multipart_upload(Bucket="plain-bucket", Key="k")["UploadId"]
    asked = path.format(number).format(upload)
    status, _, answer = plain.request("GET", asked, headers=signed(plain, "GET", asked))
    assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer
    plain.s3().abort_multipart_upload(Bucket="plain-bucket", Key="k", UploadId=upload)


def test_a_client_that_sends_an_endless_head_gets_an_answer(plain: Server) -> None:
    answer = talk(plain, b"GET / HTTP/1.1\r\nX: " + b"a" * (4 << 20))
    assert b"<Code>RequestHeaderSectionTooLarge</Code>" in answer


def test_a_trailer_that_was_not_announced_is_refused(plain: Server) -> None:
    asked = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": "5"}
    headers = signed(plain, "PUT", "/plain-bucket/trailed", b"", asked)
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    status, _, answer = plain.request("PUT", "/plain-bucket/trailed", body, headers)
    assert (status, b"<Code>MalformedTrailerError</Code>" in answer) == (400, True), answer


def test_a_huge_xml_body_is_refused(plain: Server) -> None:
    body = b"<Delete>" + b" " * (5 << 20)
    headers = signed(plain, "POST", "/plain-bucket?delete=", body)
    status, _, answer = plain.request("POST", "/plain-bucket?delete=", body, headers)
    assert (status, b"MaxMessageLengthExceeded" in answer) == (400, True)


def memory_kib(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_idle_and_slow_connections_do_not_stop_others(plain: Server) -> None:
    count = 10_000 if os.environ.get("B2FS_LONG") == "1" else 500
    before = memory_kib(plain)
    idle = []
    try:
        for number in range(count):
            connection = socket.create_connection(("127.0.0.1", plain.port), timeout=60)
            if number % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nX-Slow")
            idle.append(connection)
        started = time.monotonic()
        plain.s3().put_object(Bucket="plain-bucket", Key="k", Body=b"x")
        assert time.monotonic() - started < 15  # the slow ones have 20
        assert memory_kib(plain) - before < 40_000 + count * 40
    finally:
        for connection in idle:
            connection.close()


def forget_peak(server: Server) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def peak_kib(server: Server) -> int:
    """The most memory that the server had since forget_peak."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.parametrize("which", ["plain", "server"])
def test_a_large_put_takes_constant_memory(
    request: pytest.FixtureRequest, tmp_path: Path, which: str, bucket: str
) -> None:
    server: Server = request.getfixturevalue(which)
    s3 = server.s3(request_checksum_calculation="when_required")
    name = "plain-bucket" if which == "plain" else bucket
    s3.put_object(Bucket=name, Key="warm", Body=b"x" * (8 << 20))
    before = memory_kib(server)
    size = 5_000_000_000 if os.environ.get("B2FS_LONG") == "1" else (64 << 20)  # the largest there is
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(size)
    forget_peak(server)
    with open(path, "rb") as file:
        s3.put_object(Bucket=name, Key="large", Body=file)
    digest, body = hashlib.md5(), s3.get_object(Bucket=name, Key="large")
    for piece in body["Body"].iter_chunks(1 << 20):
        digest.update(piece)
    assert f'"{digest.hexdigest()}"' == body["ETag"]
    assert peak_kib(server) - before < 24_000


def test_plain_http_is_refused_where_tls_is_spoken(server: Server) -> None:
    answer = talk(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not answer.startswith(b"HTTP/1.1 2")


def test_tls_needs_a_trusted_name(server: Server) -> None:
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(connection, server_hostname="127.0.0.1")


def test_sigterm_lets_a_request_finish(tmp_path: Path, authority: Authority) -> None:
    with run_server(tmp_path, authority, ["--latency", "500ms"], insecure=True) as running:
        s3 = running.s3()
        s3.create_bucket(Bucket="ends-well")
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
            headers = signed(running, "PUT", "/ends-well/k", b"")
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(f"PUT /ends-well/k HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n{head}\r\n".encode())
            deadline = time.monotonic() + 60
            while not _has_received(running, connection.getsockname()[1]):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            running.stop()
            assert connection.recv(1000).startswith(b"HTTP/1.1")


def _has_received(server: Server, client_port: int) -> bool:
    """Whether the server has read what this client sent: its receive queue is empty again."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = (f":{server.port:04X}", f":{client_port:04X}")
    ours = [row for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]
    return bool(ours) and all(row[4].endswith(":00000000") for row in ours)
