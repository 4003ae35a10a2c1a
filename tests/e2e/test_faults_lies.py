"""Servers that say what is not so: an error or another try, never wrong data, and nothing lost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from b2fs.errors import FsError, StoreError
from b2fs.vfs.api import ROOT
from tests.e2e.test_faults_wire import settle
from tests.e2e.wire import MIB, Wire
from tests.faultproxy import Answer, Request, Rewrite, Way, error_body
from tests.writeback.harness import CALLER

WRONG_MD5 = '"' + "0123456789abcdef" * 2 + '"'
SMALL = b"small" * 1000
LARGE = os.urandom(10 * MIB + 5)


async def check_cold(wire: Wire, expected: dict[str, bytes]) -> None:
    """Past all lies: the bucket holds this, and a new mount shows it."""
    wire.proxy.heal()
    assert wire.contents() == expected
    async with wire.mount(cold=True) as mount:
        assert await mount.tree() == expected


# --- Answers to changes


async def test_a_put_that_tells_another_etag(wire: Wire) -> None:
    wire.proxy.harm(Rewrite(lambda _, answer: answer.with_header("ETag", WRONG_MD5)), "PutObject", times=None)
    async with wire.mount(ttl_s=0.0) as mount:
        await mount.save("a", b"one", fsync=True)
        assert await mount.read("a") == b"one"
        await mount.save("a", b"two", fsync=True)
        await mount.save("b", SMALL, fsync=True)
        await mount.rename("b", "c")
        await settle(mount)
        assert await mount.read("c") == SMALL
        assert await mount.tree() == {"a": b"two", "c": SMALL}
    await check_cold(wire, {"a": b"two", "c": SMALL})


async def test_a_part_that_tells_another_etag(wire: Wire) -> None:
    """The server then knows no such part, and the upload begins anew."""
    wire.proxy.harm(Rewrite(lambda _, answer: answer.with_header("ETag", WRONG_MD5)), "UploadPart")
    async with wire.mount() as mount:
        await mount.save("a", LARGE)
        await settle(mount)
    assert wire.uploads() == 0
    await check_cold(wire, {"a": LARGE})


#: What may come with a 200 instead of an answer.
FALSE_SUCCESS = (
    error_body("InternalError"),
    error_body("SlowDown"),
    b'<?xml version="1.0"?>' + b" " * 5000 + b"\n" + error_body("InternalError")[21:],
    b"",
    b"<?xml version='1.0'?><CopyObjectResult><ETag>&quot;0123",
    b"<html><body>login</body></html>",
    b"<CopyObjectResult></CopyObjectResult>",
)


class FalseSuccess:
    """A 200 for a call of which the server never hears, each time with another body."""

    def __init__(self) -> None:
        self._bodies = iter(FALSE_SUCCESS)

    def strike(self, way: Way) -> None:
        way.body()
        way.answer(Answer(200, "OK", (("Content-Type", "application/xml"),), next(self._bodies)))


def lie(wire: Wire, operation: str) -> None:
    """Each of the next calls is told another false success."""
    wire.proxy.harm(FalseSuccess(), operation, times=len(FALSE_SUCCESS))


async def test_copies_that_did_not_happen_and_say_200(wire: Wire) -> None:
    wire.s3.put_object(Bucket=wire.bucket, Key="old", Body=SMALL)
    wire.s3.put_object(Bucket=wire.bucket, Key="large", Body=LARGE)
    lie(wire, "CopyObject")
    lie(wire, "UploadPartCopy")
    async with wire.mount() as mount:
        await mount.rename("old", "new")
        handle = await mount.open("large")
        await mount.write(handle, 0, b"changed")
        await mount.close(handle)
        await settle(mount)
    assert wire.proxy.struck["CopyObject"] == wire.proxy.struck["UploadPartCopy"] == len(FALSE_SUCCESS)
    await check_cold(wire, {"new": SMALL, "large": b"changed" + LARGE[7:]})


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "CompleteMultipartUpload"])
async def test_uploads_that_did_not_happen_and_say_200(wire: Wire, operation: str) -> None:
    wire.s3.put_object(Bucket=wire.bucket, Key="a", Body=b"before")
    lie(wire, operation)
    async with wire.mount() as mount:
        await mount.save("a", LARGE[: 2 * MIB])
        await settle(mount)
    assert wire.proxy.struck[operation] == len(FALSE_SUCCESS)
    assert wire.uploads() == 0
    await check_cold(wire, {"a": LARGE[: 2 * MIB]})


async def test_removals_that_did_not_happen_and_say_200(wire: Wire) -> None:
    for key in ("a", "b", "kept"):
        wire.s3.put_object(Bucket=wire.bucket, Key=key, Body=SMALL)
    lie(wire, "DeleteObjects")
    async with wire.mount(ttl_s=0.1) as mount:
        await mount.unlink("a")
        await mount.unlink("b")
        await settle(mount)
        assert await mount.names() == {"kept"}
    assert wire.proxy.struck["DeleteObjects"] == len(FALSE_SUCCESS)
    await check_cold(wire, {"kept": SMALL})


# --- Bodies


def _range_elsewhere(request: Request, answer: Answer) -> Answer:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.header("Content-Range"))
    if found is None:
        return answer
    first, last, size = map(int, found.groups())
    return answer.with_header("Content-Range", f"bytes {first + 1}-{last + 1}/{size}")


def _all_of_it(request: Request, answer: Answer) -> Answer:
    """The whole object, although a part was asked for."""
    body = SMALL if request.target.partition("?")[0].endswith("small") else LARGE
    kept = tuple(pair for pair in answer.headers if pair[0].lower() != "content-range")
    return Answer(200, "OK", kept, body)


def _part_as_all(request: Request, answer: Answer) -> Answer:
    return replace(_all_of_it(request, answer), body=answer.body)


def _flipped(request: Request, answer: Answer) -> Answer:
    """Of a large body nobody can tell."""
    body = answer.body[:-1] + bytes([answer.body[-1] ^ 1]) if len(answer.body) == len(SMALL) else answer.body
    return replace(answer, body=body)


WRONG_BODIES: dict[str, Callable[[Request, Answer], Answer]] = {
    "too short for its length": lambda _, answer: replace(answer, body=answer.body[:-5], declared=len(answer.body)),
    "too long for its length": lambda _, answer: replace(answer, declared=len(answer.body) - 5),
    "shorter": lambda _, answer: replace(answer, body=answer.body[:-5]),
    "longer": lambda _, answer: replace(answer, body=answer.body + b"more"),
    "empty": lambda _, answer: replace(answer, body=b""),
    "another range": _range_elsewhere,
    "all of it": _all_of_it,
    "a part that claims to be all": _part_as_all,
    "a flipped bit": _flipped,
    "an error": lambda _, answer: replace(answer, body=error_body("InternalError")),
}


@pytest.mark.parametrize("change", WRONG_BODIES.values(), ids=WRONG_BODIES)
async def test_a_wrong_body_is_never_served(wire: Wire, change: Callable[[Request, Answer], Answer]) -> None:
    wire.s3.put_object(Bucket=wire.bucket, Key="small", Body=SMALL)
    wire.s3.put_object(Bucket=wire.bucket, Key="large", Body=LARGE)
    expected = {"small": SMALL, "large": LARGE}
    wire.proxy.harm(Rewrite(change), "GetObject", times=2)
    async with wire.mount() as mount:
        assert await mount.tree() == expected
    wire.proxy.harm(Rewrite(change), "GetObject", times=None)
    async with wire.mount(cold=True) as mount:
        for path, body in expected.items():
            handle = await mount.open(path, os.O_RDONLY)
            with trio.fail_after(20):
                try:
                    found = bytes(await mount.fs.read(handle, 100, 3000))
                except StoreError:
                    continue
                finally:
                    await mount.close(handle)
            # Only where the lie did not touch what was asked for.
            assert found == body[100:3100]


# --- Listings


def _doubled(request: Request, answer: Answer) -> Answer:
    return replace(answer, body=re.sub(rb"(<Contents>.*?</Contents>)", rb"\1\1", answer.body, flags=re.S))


async def test_a_listing_that_names_things_twice(wire: Wire) -> None:
    for key in ("a", "b", "d/x"):
        wire.s3.put_object(Bucket=wire.bucket, Key=key, Body=SMALL)
    wire.proxy.harm(Rewrite(_doubled), "ListObjectsV2", times=None)
    async with wire.mount(ttl_s=0.0) as mount:
        handle = await mount.fs.opendir(ROOT, CALLER)
        listed = [entry.name async for entry in mount.fs.readdir(handle, 0)]
        await mount.fs.releasedir(handle)
        assert sorted(listed) == [b"a", b"b", b"d"]
        assert await mount.tree() == {"a": SMALL, "b": SMALL, "d": None, "d/x": SMALL}
        await mount.rename("d", "e")
        await settle(mount)
    wire.proxy.heal()
    assert wire.contents() == {"a": SMALL, "b": SMALL, "e/x": SMALL}


def _truncated(token: bytes) -> Callable[[Request, Answer], Answer]:
    """Says that there is more, behind this token."""

    def change(request: Request, answer: Answer) -> Answer:
        body = re.sub(rb"<IsTruncated>false</IsTruncated>", rb"<IsTruncated>true</IsTruncated>" + token, answer.body)
        return replace(answer, body=body)

    return change


class SamePage:
    """Every page is the first one, and says that there is more."""

    def __init__(self) -> None:
        self._page: Answer | None = None

    def strike(self, way: Way) -> None:
        if self._page is None:
            token = b"<NextContinuationToken>round</NextContinuationToken>"
            self._page = _truncated(token)(way.request, way.ask())
        way.answer(self._page)


@pytest.mark.parametrize(
    "token", [b"", b"<NextContinuationToken>broken</NextContinuationToken>"], ids=["no token", "a broken token"]
)
async def test_a_listing_that_cannot_be_continued_is_an_error(wire: Wire, token: bytes) -> None:
    """Never a part that passes for the whole."""
    for key in ("a", "b"):
        wire.s3.put_object(Bucket=wire.bucket, Key=key, Body=SMALL)
    wire.proxy.harm(Rewrite(_truncated(token)), "ListObjectsV2", times=None)
    async with wire.mount() as mount:
        with trio.fail_after(20), pytest.raises(StoreError):
            await mount.names()
        wire.proxy.heal()
        assert await mount.names() == {"a", "b"}


async def test_a_page_of_another_program_is_no_empty_directory(wire: Wire) -> None:
    wire.s3.put_object(Bucket=wire.bucket, Key="a", Body=SMALL)
    page = b"<html><body>Welcome to this hotel</body></html>"
    async with wire.mount() as mount:
        wire.proxy.harm(Rewrite(lambda _, answer: replace(answer, body=page)), "ListObjectsV2", times=None)
        with trio.fail_after(20), pytest.raises(StoreError):
            await mount.names()
        wire.proxy.heal()
        assert await mount.names() == {"a"}


async def test_a_listing_that_goes_in_a_circle_is_an_error(wire: Wire) -> None:
    for key in ("a", "b"):
        wire.s3.put_object(Bucket=wire.bucket, Key=key, Body=SMALL)
    wire.proxy.harm(SamePage(), "ListObjectsV2", times=None)
    async with wire.mount() as mount:
        with trio.fail_after(20), pytest.raises(StoreError):
            await mount.names()
    assert wire.proxy.count("ListObjectsV2") < 20


async def test_listings_that_lag_behind(wire: Wire) -> None:
    """What was stored here does not vanish, what was removed does not come back, and nothing is lost by it."""
    for key in ("old", "removed", "changed"):
        wire.s3.put_object(Bucket=wire.bucket, Key=key, Body=SMALL)
    first: dict[str, Answer] = {}

    def lag(request: Request, answer: Answer) -> Answer:
        return first.setdefault(request.target, answer)

    wire.proxy.harm(Rewrite(lag), "ListObjectsV2", times=None)
    async with wire.mount(ttl_s=0.0) as mount:
        assert await mount.names() == {"old", "removed", "changed"}
        await mount.save("new", b"new")
        await mount.save("changed", b"changed")
        await mount.unlink("removed")
        await settle(mount)
        await mount.names()
        with suppress(FsError, StoreError):
            await mount.save("new", b"newer")
        await mount.save("changed", b"changed again")
        await settle(mount)
        wire.proxy.heal()
        assert await mount.tree() == {"old": SMALL, "new": b"newer", "changed": b"changed again"}
    await check_cold(wire, {"old": SMALL, "new": b"newer", "changed": b"changed again"})
