"""How the S3 store takes what a server or the network does to it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from b2fs.core.types import Capabilities, ETag, ObjectRef, PartInfo, UploadId, VersionId
from b2fs.errors import (
    AccessDenied,
    ConfigError,
    CorruptBody,
    InvalidRange,
    InvalidRequest,
    Locked,
    NoSuchUpload,
    PreconditionFailed,
    SlowDown,
    StoreError,
    TimedOut,
    Unavailable,
)
from b2fs.store.s3 import RetryPolicy, S3Config, S3Store
from b2fs.store.s3.faults import MOST_RETRY_AFTER_S
from b2fs.store.s3.hashing import payload_hash, signs_bodies
from b2fs.store.s3.transport import time_limit_s
from b2fs.store.s3.wire import Call
from tests.unit.s3_scripted import EMPTY_LISTING, Reply, Request, Script, ScriptedServer, error_reply

QUICK = RetryPolicy(attempts=4, base_delay_s=0.01, max_delay_s=0.05, deadline_s=20.0)
HELLO = b"hello"
HELLO_ETAG = ETag(hashlib.md5(HELLO, usedforsecurity=False).hexdigest())
OBJECT_HEADERS = {"ETag": f'"{HELLO_ETAG}"', "x-amz-version-id": "v1", "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@contextmanager
def scripted(*replies: Reply | None, script: Script | None = None) -> Iterator[ScriptedServer]:
    """A server that gives these answers in turn, the last one for ever; listings, which open a store, are empty.

    Opening leaves no connection behind, on which a question without an answer would be asked again in silence.
    """
    left = list(replies)

    def next_reply(request: Request) -> Reply | None:
        if "list-type=2" in request.query:
            return Reply(200, {"Connection": "close"}, EMPTY_LISTING, close=True)
        if script is not None:
            return script(request)
        return left.pop(0) if len(left) > 1 else left[0]

    with ScriptedServer(next_reply).running() as server:
        yield server


@asynccontextmanager
async def store_on(server: ScriptedServer, **options: Any) -> AsyncIterator[S3Store]:
    """A store on the server, its opening request forgotten."""
    options.setdefault("retry", QUICK)
    config = S3Config("bucket", server.endpoint, **options)
    async with S3Store(config, Capabilities(conditional_put=True)) as store:
        server.requests.clear()
        while server.arrived.acquire(blocking=False):
            pass
        yield store


# --- Retries


@pytest.mark.parametrize(
    "fault",
    [
        error_reply(500, "InternalError"),
        error_reply(503, "SlowDown"),
        error_reply(503, "ServiceUnavailable"),
        error_reply(429, "TooManyRequests"),
        Reply(502, {}, b"<html>bad gateway</html>"),
        None,
        Reply(200, OBJECT_HEADERS, HELLO[:3], declared=5, close=True),
    ],
    ids=["500", "slowdown", "503", "429", "502", "reset", "short"],
)
async def test_faults_that_pass_are_tried_again(fault: Reply | None) -> None:
    with scripted(fault, fault, Reply(200, OBJECT_HEADERS, HELLO)) as server:
        async with store_on(server) as store:
            info, body = await store.get("a")
            assert (body, info.ref.version_id) == (HELLO, "v1")
            assert server.count("GET") == 3
            assert store.calls.retries == 2
            store.gate.check_invariants()
            assert store.gate.in_flight == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (error_reply(503, "SlowDown"), SlowDown),
        (error_reply(500, "InternalError"), Unavailable),
        (None, Unavailable),
    ],
)
async def test_faults_that_stay_are_raised_after_a_bounded_number_of_attempts(
    fault: Reply | None, kind: type[StoreError]
) -> None:
    with scripted(fault) as server:
        async with store_on(server) as store:
            with pytest.raises(kind):
                await store.get("a")
            assert server.count("GET") == QUICK.attempts


async def test_refusals_are_not_tried_again() -> None:
    with scripted(error_reply(403, "AccessDenied")) as server:
        async with store_on(server) as store:
            with pytest.raises(AccessDenied):
                await store.put("a", HELLO)
            assert len(server.requests) == 1


async def test_retry_after_is_honoured_and_slows_everybody() -> None:
    times: list[float] = []

    def script(request: Request) -> Reply:
        times.append(time.monotonic())
        if len(times) <= 2:
            return error_reply(503, "SlowDown", **{"Retry-After": "1"})
        return Reply(200, OBJECT_HEADERS, HELLO)

    with scripted(script=script) as server:
        async with store_on(server, max_connections=8) as store:
            assert (await store.get("a"))[1] == HELLO
            assert store.gate.limit < 8
            assert times[2] - times[1] >= 0.95


async def test_a_retry_after_beyond_the_deadline_is_raised_with_its_length() -> None:
    policy = RetryPolicy(attempts=8, base_delay_s=0.01, deadline_s=30.0)
    with scripted(error_reply(503, "SlowDown", **{"Retry-After": "3600"})) as server:
        async with store_on(server, retry=policy) as store:
            with pytest.raises(SlowDown) as caught:
                await store.get("a")
            assert caught.value.retry_after_s == MOST_RETRY_AFTER_S


async def test_an_endpoint_that_refuses_connections() -> None:
    with scripted(Reply()) as server:
        config = S3Config("bucket", server.endpoint, retry=QUICK)
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with S3Store(config):
            raise AssertionError("entered")


async def test_a_server_that_never_answers_times_out() -> None:
    with scripted(Reply(200, OBJECT_HEADERS, HELLO)) as server:
        policy = RetryPolicy(attempts=2, base_delay_s=0.01, deadline_s=20.0)
        async with store_on(server, retry=policy, stall_timeout_s=0.3) as store:
            server.hold()
            with pytest.raises(TimedOut):
                await store.head("a")
            server.release()
            assert store.gate.in_flight == 0


async def test_a_server_that_copies_much_is_given_time() -> None:
    """Five gigabytes are not copied within a stall, and a server may be silent until they are."""
    config = S3Config("bucket", "http://127.0.0.1:1")
    ordinary = time_limit_s(Call("CopyObject", "PUT", "/bucket/a"), config)
    assert time_limit_s(Call("CopyObject", "PUT", "/bucket/a", copied_bytes=5 << 30), config) > ordinary + 200
    success = Reply(200, {}, b'<CopyObjectResult><ETag>"abc"</ETag></CopyObjectResult>')
    with scripted(success) as server:
        async with store_on(server, stall_timeout_s=0.2) as store:
            server.hold()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.copy, ObjectRef("s", VersionId("v1"), HELLO_ETAG, 4 << 30), "t")
                await trio.to_thread.run_sync(server.arrived.acquire)
                with pytest.raises(TimedOut):
                    await store.copy(ObjectRef("s", VersionId("v1"), HELLO_ETAG, 5), "t")
                server.release()
            assert [request.headers["x-amz-copy-source"] for request in server.requests] == [
                "/bucket/s?versionId=v1"
            ] * 5


async def test_a_put_whose_answer_was_lost_is_not_taken_for_a_conflict() -> None:
    answers = iter([None, error_reply(412, "PreconditionFailed")])

    def script(request: Request) -> Reply | None:
        return Reply(200, OBJECT_HEADERS, declared=5) if request.method == "HEAD" else next(answers)

    with scripted(script=script) as server:
        async with store_on(server) as store:
            info = await store.put("a", HELLO, if_none_match=True)
            assert info.ref.version_id == "v1"


async def test_a_completion_whose_answer_was_lost_is_found_again() -> None:
    part = PartInfo(1, HELLO_ETAG, 5)
    digest = hashlib.md5(bytes.fromhex(HELLO_ETAG), usedforsecurity=False).hexdigest()
    headers = {**OBJECT_HEADERS, "ETag": f'"{digest}-1"'}
    answers = iter([None, error_reply(404, "NoSuchUpload")])

    def script(request: Request) -> Reply | None:
        return Reply(200, headers, declared=5) if request.method == "HEAD" else next(answers)

    with scripted(script=script) as server:
        async with store_on(server) as store:
            info = await store.complete_upload("a", UploadId("u"), [part])
            assert info.ref.etag == f"{digest}-1"


@pytest.mark.parametrize("refused", [False, True])
async def test_of_which_keys_an_answer_was_lost_is_told(refused: bool) -> None:
    """A server that asks for patience has done nothing."""
    failure = error_reply(503, "SlowDown") if refused else None
    made = b'<CopyObjectResult><ETag>"abc"</ETag></CopyObjectResult>'
    gone = b"<DeleteResult><Deleted><Key>d</Key></Deleted><Deleted><Key>e</Key></Deleted></DeleteResult>"
    successes = [Reply(200, OBJECT_HEADERS, body) for body in (b"", made, made, gone, b"")]
    answers = iter([answer for success in successes for answer in (failure, success)])
    lost: list[str] = []
    with scripted(script=lambda request: next(answers)) as server:
        async with store_on(server) as store:
            store.watch_lost(lost.append)
            await store.put("a", HELLO)
            await store.copy(ObjectRef("s", VersionId("v1"), HELLO_ETAG, 5), "b")
            await store.complete_upload("c", UploadId("u"), [PartInfo(1, HELLO_ETAG, 5)])
            await store.delete_many([("d", None), ("e", VersionId("v"))])
            await store.hide("f")
    assert lost == ([] if refused else ["a", "b", "c", "d", "f"])


async def test_a_completion_of_an_unknown_upload_is_refused() -> None:
    with scripted(error_reply(404, "NoSuchUpload")) as server:
        async with store_on(server) as store:
            with pytest.raises(NoSuchUpload):
                await store.complete_upload("a", UploadId("u"), [PartInfo(1, HELLO_ETAG, 5)])


@pytest.mark.parametrize("code", ["NoSuchUpload", "NoSuchKey"])
async def test_an_upload_that_is_gone_is_gone_whatever_the_server_calls_it(code: str) -> None:
    """Ceph answers NoSuchKey for one that was aborted."""
    with scripted(error_reply(404, code)) as server:
        async with store_on(server) as store:
            with pytest.raises(NoSuchUpload):
                await store.upload_part("a", UploadId("u"), 1, HELLO)
            with pytest.raises(NoSuchUpload):
                await store.list_parts("a", UploadId("u"))
            with pytest.raises(NoSuchUpload):
                await store.complete_upload("a", UploadId("u"), [PartInfo(1, HELLO_ETAG, 5)])
            await store.abort_upload("a", UploadId("u"))


async def test_an_error_in_the_body_of_a_200_is_an_error() -> None:
    failure = Reply(200, {"Content-Type": "application/xml"}, error_reply(200, "InternalError").body)
    success = Reply(200, {}, b'<CopyObjectResult><ETag>"abc"</ETag></CopyObjectResult>')
    with scripted(failure, success) as server:
        async with store_on(server) as store:
            info = await store.copy(ObjectRef("s", VersionId("v1"), HELLO_ETAG, 5), "t")
            assert info.ref.etag == "abc"
            assert server.count("PUT") == 2


# --- Bodies


async def test_a_body_with_another_md5_is_never_served() -> None:
    with scripted(Reply(200, OBJECT_HEADERS, b"jello")) as server:
        async with store_on(server) as store:
            with pytest.raises(CorruptBody):
                await store.get("a")


@pytest.mark.parametrize(
    "headers",
    [{"x-amz-server-side-encryption": "aws:kms"}, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}],
    ids=["kms", "customer"],
)
async def test_an_etag_that_only_looks_like_an_md5_is_no_checksum(headers: dict[str, str]) -> None:
    with scripted(Reply(200, {**OBJECT_HEADERS, **headers}, b"jello")) as server:
        async with store_on(server) as store:
            assert (await store.get("a"))[1] == b"jello"


async def test_a_damaged_body_is_fetched_again() -> None:
    with scripted(Reply(200, OBJECT_HEADERS, b"jello"), Reply(200, OBJECT_HEADERS, HELLO)) as server:
        async with store_on(server) as store:
            assert (await store.get("a"))[1] == HELLO


async def test_a_damaged_listing_is_asked_for_again() -> None:
    page = b"<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>"
    twice = 2 * (b'<?xml version="1.0"?>' + page)
    with scripted(Reply(200, {}, twice), Reply(200, {}, page)) as server:
        async with store_on(server) as store:
            assert not (await store.list_versions("")).versions
            assert server.count("GET") == 2
    with scripted(Reply(200, {}, twice)) as server:
        async with store_on(server) as store:
            with pytest.raises(CorruptBody):
                await store.list_versions("")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Range": "bytes 1-3/5"}, b"el"),
        ({"Content-Range": "bytes 0-2/5"}, b"hel"),
        ({}, b"ell"),
    ],
    ids=["short", "elsewhere", "unexplained"],
)
async def test_a_wrong_range_is_never_served(headers: dict[str, str], body: bytes) -> None:
    with scripted(Reply(206, {**OBJECT_HEADERS, **headers}, body)) as server:
        async with store_on(server) as store:
            with pytest.raises(CorruptBody):
                await store.get("a", start=1, end=4)


async def test_a_server_that_ignores_ranges() -> None:
    with scripted(Reply(200, OBJECT_HEADERS, HELLO)) as server:
        async with store_on(server) as store:
            info, body = await store.get("a", start=1, end=3)
            assert (body, info.size) == (b"el", 5)
            with pytest.raises(InvalidRange):
                await store.get("a", start=5)


async def test_a_server_that_ignores_conditions() -> None:
    with scripted(Reply(200, OBJECT_HEADERS, HELLO)) as server:
        async with store_on(server) as store:
            with pytest.raises(PreconditionFailed):
                await store.get("a", if_match=ETag("0" * 32))


# --- What is sent


async def test_what_a_put_looks_like() -> None:
    with scripted(Reply(200, OBJECT_HEADERS)) as server:
        async with store_on(server) as store:
            await store.put("a b/ü+%", memoryview(HELLO), metadata={"Mode": "33188"}, content_type="text/plain")
        [request] = server.requests
    assert (request.path, request.body) == ("/bucket/a b/ü+%", HELLO)
    headers = request.headers
    assert headers["content-length"] == "5"
    assert headers["content-md5"] == "XUFAKrxLKna5cZ2REBfFkg=="
    assert headers["x-amz-meta-mode"] == "33188"
    assert headers["content-type"] == "text/plain"
    # Within a machine nobody changes the body; the server checks it against the MD5, which is signed.
    assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key-id/")
    assert "content-md5;" in headers["authorization"]
    assert not [name for name in headers if "checksum" in name or "trailer" in name]
    assert "content-encoding" not in headers


async def test_a_plain_connection_through_a_network_protects_nothing_by_itself() -> None:
    config = S3Config("bucket", endpoint="http://192.0.2.1", insecure_http=True)
    assert signs_bodies(config)
    assert await payload_hash(HELLO) == hashlib.sha256(HELLO).hexdigest()
    large = bytes(1 << 20)
    assert await payload_hash(large) == hashlib.sha256(large).hexdigest()


async def test_a_retry_sends_the_whole_body_again() -> None:
    data = bytes(range(256)) * 4096
    with scripted(error_reply(500, "InternalError"), None, Reply(200, OBJECT_HEADERS)) as server:
        async with store_on(server) as store:
            await store.put("a", data)
        assert [request.body == data for request in server.requests] == [True, True, True]


@pytest.mark.parametrize(
    "metadata", [{"a": "€"}, {"a": " x"}, {"a": "x\n"}, {"a": "ü\x7f"}, {"": "x"}, {"a b": "x"}, {"Expires": "\r"}]
)
async def test_metadata_that_cannot_stand_in_headers_is_refused(metadata: dict[str, str]) -> None:
    with scripted(Reply(200, OBJECT_HEADERS)) as server:
        async with store_on(server) as store:
            with pytest.raises(InvalidRequest):
                await store.put("a", HELLO, metadata=metadata)
            assert server.requests == []


async def test_a_key_that_is_no_unicode_is_refused() -> None:
    with scripted(Reply(200, OBJECT_HEADERS)) as server:
        async with store_on(server) as store:
            with pytest.raises(InvalidRequest):
                await store.put("a\udcff", HELLO)


async def test_the_master_key_is_refused_before_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "0123456789ab")
    with scripted(Reply()) as server:
        with pytest.raises(ConfigError, match="application key"):
            async with S3Store(S3Config("bucket", server.endpoint, backblaze=True)):
                raise AssertionError("entered")
        assert server.requests == []


# --- Cancellation


async def test_a_cancelled_put_is_over_when_it_returns() -> None:
    with scripted(Reply(200, OBJECT_HEADERS)) as server:
        async with store_on(server) as store:
            server.hold()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.put, "a", HELLO)
                await trio.to_thread.run_sync(server.arrived.acquire)
                nursery.cancel_scope.cancel()
            assert store.gate.in_flight == 0
            server.release()
            assert (await store.put("a", HELLO)).ref.etag == HELLO_ETAG
            assert server.count("PUT") == 2


async def test_cancelled_while_waiting_for_a_place_sends_nothing() -> None:
    with scripted(Reply(200, OBJECT_HEADERS)) as server:
        async with store_on(server, max_connections=1) as store:
            server.hold()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.put, "a", HELLO)
                await trio.to_thread.run_sync(server.arrived.acquire)
                with trio.move_on_after(0.05):
                    await store.put("b", HELLO)
                server.release()
            assert [request.path for request in server.requests] == ["/bucket/a"]


# --- Removing


async def test_a_refused_removal_of_a_locked_version() -> None:
    def script(request: Request) -> Reply:
        if request.method == "HEAD":
            until = {"x-amz-object-lock-retain-until-date": "2999-01-01T00:00:00Z"}
            return Reply(200, {**OBJECT_HEADERS, **until}, declared=5)
        return error_reply(403, "AccessDenied")

    with scripted(script=script) as server:
        async with store_on(server) as store:
            with pytest.raises(Locked, match="2999"):
                await store.delete_version("a", VersionId("v1"))


async def test_a_refused_removal_for_want_of_rights() -> None:
    def script(request: Request) -> Reply:
        return Reply(200, OBJECT_HEADERS, declared=5) if request.method == "HEAD" else error_reply(403, "AccessDenied")

    with scripted(script=script) as server:
        async with store_on(server) as store:
            with pytest.raises(AccessDenied) as caught:
                await store.delete_version("a", VersionId("v1"))
            assert type(caught.value) is AccessDenied


async def test_delete_many_without_the_call() -> None:
    def script(request: Request) -> Reply:
        if request.method == "POST":
            return error_reply(501, "NotImplemented")
        if request.path.endswith("/bad"):
            return error_reply(403, "AccessDenied")
        return Reply(204, {"x-amz-version-id": "marker"})

    with scripted(script=script) as server:
        async with store_on(server) as store:
            good, bad, version = await store.delete_many([("a", None), ("bad", None), ("c", VersionId("v1"))])
            assert good == "marker"
            assert isinstance(bad, AccessDenied)
            assert version is None
            await store.delete_many([("a", None)])
            assert server.count("POST") == 1


async def test_delete_many_tells_the_fate_of_each_target() -> None:
    body = b"""<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
    <Deleted><Key>a&amp;b</Key><DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>m</DeleteMarkerVersionId></Deleted>
    <Deleted><Key>v</Key><VersionId>v1</VersionId></Deleted>
    <Error><Key>no</Key><Code>AccessDenied</Code><Message>no</Message></Error>
    <Error><Key>gone</Key><VersionId>v2</VersionId><Code>NoSuchVersion</Code><Message>no</Message></Error>
    </DeleteResult>"""
    targets = [("v", VersionId("v1")), ("no", None), ("a&b", None), ("gone", VersionId("v2")), ("silent", None)]
    with scripted(Reply(200, {"Content-Type": "application/xml"}, body)) as server:
        async with store_on(server) as store:
            removed, refused, marker, gone, silent = await store.delete_many(targets)
        assert (removed, marker, gone) == (None, "m", None)
        assert isinstance(refused, AccessDenied)
        assert isinstance(silent, StoreError)
        assert "content-md5" in server.requests[0].headers
