"""Entering a store: what is wrong is said soon; what a server can do is remembered, and proved before it is used."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from b2fs.core.types import Capabilities, ETag, ObjectRef, VersionId
from b2fs.errors import StoreError, TimedOut, Unavailable, Unsupported
from b2fs.store.s3 import S3Config, S3Store, entry
from b2fs.store.s3 import finding as finding_module
from b2fs.store.s3 import store as s3_store
from b2fs.store.s3.greeting import Greeting, greet
from b2fs.store.s3.memory import CapabilityFile
from b2fs.store.s3.probe import EVERYTHING, Trial
from b2fs.store.s3.proof import Proof
from tests.servers import Server
from tests.unit.s3_scripted import EMPTY_LISTING, Reply, ScriptedServer

#: With what the default policy would take, these tests would take minutes.
QUICK_S = 3.0
#: How often a name is looked up before it is said to be unknown.
LOOKUPS = 3


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


async def refusal(config: S3Config, greeting: Greeting | None = None) -> str:
    with pytest.raises(StoreError) as caught:
        async with S3Store(config, greeting=greeting):
            raise AssertionError("entered")
    return str(caught.value)


async def test_a_refused_connection_is_final_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        started = time.monotonic()
        sentence = await refusal(S3Config("bucket", f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert sentence.endswith("cannot be reached: connection refused")
    assert time.monotonic() - started < QUICK_S


class Unknown(trio.abc.HostnameResolver):
    """Knows no host."""

    def __init__(self) -> None:
        self.asked = 0

    async def getaddrinfo(self, *args: object) -> Any:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *args: object) -> Any:
        raise AssertionError("no address was found")


async def test_an_unknown_host_is_final_soon(autojump_clock: trio.testing.MockClock) -> None:
    """No wall clock: so many lookups, and so long pauses between them."""
    resolver = Unknown()
    trio.socket.set_custom_hostname_resolver(resolver)
    started = trio.current_time()
    sentence = await refusal(S3Config("bucket", "https://s3.nowhere.example", insecure_http=True))
    assert sentence.endswith("the host name s3.nowhere.example is not known")
    assert resolver.asked == LOOKUPS
    assert trio.current_time() - started < QUICK_S
    sentence = await refusal(S3Config("bucket", region="us-wset-004", backblaze=True))
    assert sentence.endswith(
        "the host name s3.us-wset-004.backblazeb2.com is not known; is the region us-wset-004 right?"
    )


async def test_a_server_without_tls_is_final_soon() -> None:
    with ScriptedServer(lambda _: Reply(body=EMPTY_LISTING)).running() as server:
        started = time.monotonic()
        sentence = await refusal(S3Config("bucket", server.endpoint.replace("http:", "https:")))
    assert "does not speak TLS" in sentence
    assert time.monotonic() - started < QUICK_S


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "PATIENCE_S", 0.3)
    with ScriptedServer(lambda _: Reply(body=EMPTY_LISTING)).running() as server:
        server.hold()
        with pytest.raises(TimedOut, match="no answer within"):
            async with S3Store(S3Config("bucket", server.endpoint)):
                raise AssertionError("entered")
        server.release()


# --- Greeting


@contextmanager
def answering(body: bytes = EMPTY_LISTING) -> Iterator[tuple[ScriptedServer, S3Config]]:
    with ScriptedServer(lambda _: Reply(body=body)).running() as server:
        yield server, S3Config("bucket", server.endpoint)


async def test_what_was_asked_before_is_not_asked_again() -> None:
    with answering() as (server, config):
        greeting = greet(config)
        assert greeting is not None
        assert greeting.versioned is not None
        await trio.to_thread.run_sync(greeting.versioned.result, QUICK_S)
        async with S3Store(config, Capabilities(), greeting) as store:
            assert sorted(request.query for request in server.requests) == ["list-type=2&max-keys=1", "versioning="]
            assert store.calls.sent == 0


PLACE = b"""<ListBucketResult><Name>bucket</Name><Prefix>.b2fs/</Prefix><EncodingType>url</EncodingType>
<IsTruncated>false</IsTruncated><CommonPrefixes><Prefix>.b2fs/attrs/</Prefix></CommonPrefixes></ListBucketResult>"""


@pytest.mark.parametrize("late_s", [0.0, 1000.0])
async def test_a_place_that_was_listed_before_is_not_listed_again_at_once(
    monkeypatch: pytest.MonkeyPatch, late_s: float
) -> None:
    monkeypatch.setattr(s3_store, "_LISTED_S", s3_store._LISTED_S - late_s)
    with answering(PLACE) as (_, config):
        greeting = greet(config, ".b2fs/")
        assert greeting is not None
        async with S3Store(config, Capabilities(), greeting) as store:
            assert (await store.list_objects("", delimiter="/")).prefixes == (".b2fs/attrs/",)
            assert store.calls.sent == 1  # that was another place
            page = await store.list_objects(".b2fs/", delimiter="/")
            assert (page.objects, page.prefixes, page.next_token) == ((), (".b2fs/attrs/",), None)
            assert store.calls.sent == 1 + bool(late_s)
            await store.list_objects(".b2fs/", delimiter="/")
            assert store.calls.sent == 2 + bool(late_s)


async def test_what_was_listed_before_is_the_answer_to_the_same_question_only() -> None:
    with answering(PLACE) as (_, config):
        greeting = greet(config, ".b2fs/")
        async with S3Store(config, Capabilities(), greeting) as store:
            await store.list_objects(".b2fs/", delimiter="/", start_after=".b2fs/b")
            await store.list_objects(".b2fs/", delimiter="/")
            assert store.calls.sent == 2


async def test_a_greeting_that_comes_to_nothing_costs_no_explanation() -> None:
    with answering() as (_, config):
        pass
    sentence = await refusal(config, greet(config))
    assert sentence.endswith("cannot be reached: connection refused")
    with answering(b"<html><body>It works!</body></html>") as (_, config):
        assert "does not look like an S3 endpoint" in await refusal(config, greet(config))


async def test_a_greeting_without_an_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "PATIENCE_S", 0.3)
    monkeypatch.setattr(entry, "_GREETING_S", 0.3)
    with answering() as (server, config):
        server.hold()
        assert "no answer within" in await refusal(config, greet(config))
        server.release()


def test_no_greeting_without_a_key_or_with_a_wrong_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert greet(S3Config("bucket", "https://127.0.0.1:1", ca_bundle=str(tmp_path / "missing"))) is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "0123456789ab")  # B2's master key
    assert greet(S3Config("bucket", "http://127.0.0.1:1", backblaze=True)) is None
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "missing"))
    assert greet(S3Config("bucket", "http://127.0.0.1:1")) is None


async def test_a_web_page_is_no_listing() -> None:
    with ScriptedServer(lambda _: Reply(body=b"<html><body>It works!</body></html>")).running() as server:
        assert "does not look like an S3 endpoint" in await refusal(S3Config("bucket", server.endpoint))


# --- Memory


def test_what_was_kept_is_there_for_the_same_server(tmp_path: Path) -> None:
    memory = CapabilityFile(str(tmp_path / "server.json"))
    assert memory.load("weed 1") is None
    found = Capabilities(part_copy=False, marker_metadata=False)
    memory.save("weed 1", found)
    assert memory.load("weed 1") == found
    assert memory.load("weed 2") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 0},
        {"time": 0},
        {"time": time.time() + 10_000},
        {"time": "long ago"},
        {"capabilities": {}},
        {"capabilities": [True]},
        {"capabilities": dict.fromkeys(Capabilities()._asdict(), "yes")},
    ],
)
def test_what_is_damaged_or_old_is_not_believed(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "server.json"
    memory = CapabilityFile(str(path))
    memory.save("weed", Capabilities())
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    assert memory.load("weed") is None
    path.write_text("{")
    assert memory.load("weed") is None


def test_a_directory_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    CapabilityFile(str(tmp_path / "missing" / "server.json")).save("weed", Capabilities())
    assert os.listdir(tmp_path) == []


# --- Proof


async def test_those_who_relied_on_what_is_not_so_fail_and_the_next_do_not() -> None:
    release = trio.Event()

    async def find() -> Capabilities:
        await release.wait()
        return Capabilities(copy=False)

    proof = Proof(Capabilities(), find)
    failed = 0

    async def rely() -> None:
        nonlocal failed
        with pytest.raises(Unavailable, match="planned anew"):
            await proof.confirm()
        failed += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rely)
        nursery.start_soon(rely)
        await trio.testing.wait_all_tasks_blocked()
        assert proof.capabilities == Capabilities()
        release.set()
    assert failed == 2
    assert proof.capabilities == Capabilities(copy=False)
    await proof.confirm()


async def test_a_server_that_cannot_be_asked_proves_nothing() -> None:
    answers: Iterator[Capabilities | None] = iter([None, None, Capabilities()])

    async def find() -> Capabilities:
        await trio.lowlevel.checkpoint()
        found = next(answers)
        if found is None:
            raise Unavailable("not now")
        return found

    proof = Proof(Capabilities(), find)
    await proof.confirm_soon()
    with pytest.raises(Unavailable, match="not now"):
        await proof.confirm()
    await proof.confirm()
    await proof.confirm()


# --- Both, on a server


@pytest.fixture
def bucket(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    return seaweedfs.new_bucket()


async def test_a_second_run_is_there_before_the_server_was_tried_out(
    seaweedfs: Server, bucket: str, tmp_path: Path
) -> None:
    config = S3Config(bucket, seaweedfs.endpoint, memory_file=str(tmp_path / "server.json"))
    async with S3Store(config) as first:
        found, tried = first.capabilities, first.calls.sent
    assert found.versioning
    assert tried > 15
    async with S3Store(config) as second:
        assert second.capabilities == found
        assert second.calls.sent <= 2
        source = await second.put("a", b"hello")  # needs no proof
        await second.put("dir/", b"")  # does
        assert second.calls.sent > 15
        assert second.capabilities == found
        await second.copy(source.ref, "b")
    assert {info["Key"] for info in seaweedfs.client().list_objects_v2(Bucket=bucket)["Contents"]} == {"a", "b", "dir/"}


async def test_a_server_never_met_is_tried_out_behind_the_first_calls(seaweedfs: Server, bucket: str) -> None:
    async with S3Store(S3Config(bucket, seaweedfs.endpoint)) as store:
        truth, needed = store.capabilities, store.calls.sent
    assert truth != EVERYTHING, "or this shows nothing"
    async with S3Store(S3Config(bucket, seaweedfs.endpoint, prove_behind=True)) as store:
        assert store.calls.sent == 2
        assert store.capabilities.versioning == truth.versioning
        await store.put("a", b"hello")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(store.wait_known)
        assert store.capabilities == truth
        assert store.calls.sent == needed + 1
        await store.wait_known()
        await store.put("dir/", b"")
        assert store.calls.sent == needed + 2
    assert {info["Key"] for info in seaweedfs.client().list_objects_v2(Bucket=bucket)["Contents"]} == {"a", "dir/"}


async def test_what_cannot_be_found_out_now_is_found_out_later(
    seaweedfs: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding_module, "SETTLING_S", 0.0)
    faults = [Unavailable("nor now"), Unavailable("not now")]
    run, all_failed = Trial.run, trio.Event()

    async def failing(self: Trial) -> Capabilities:
        await trio.lowlevel.checkpoint()
        if not faults:
            return await run(self)
        fault = faults.pop()
        if not faults:
            all_failed.set()
        raise fault

    monkeypatch.setattr(Trial, "run", failing)
    async with S3Store(S3Config(bucket, seaweedfs.endpoint, prove_behind=True)) as store:
        with pytest.raises(Unavailable, match="not now"):
            await store.wait_known()
        with trio.fail_after(30):
            await all_failed.wait()  # the background tries once, and leaves the rest to those who need to know
        await store.wait_known()
        assert not store.capabilities.marker_metadata
    assert seaweedfs.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0


async def test_a_wrong_memory_is_found_out_before_anything_is_copied(
    seaweedfs: Server, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "server.json"
    config = S3Config(bucket, seaweedfs.endpoint, memory_file=str(path))
    async with S3Store(config) as store:
        truth = store.capabilities
    kept = json.loads(path.read_text())
    kept["capabilities"]["marker_metadata"] = not truth.marker_metadata
    path.write_text(json.dumps(kept))
    source = ObjectRef("a", VersionId("1"), ETag("e"), 1)
    async with S3Store(config) as store:
        assert store.capabilities != truth
        with pytest.raises(Unavailable, match="planned anew"):
            await store.copy(source, "b")
        assert store.capabilities == truth
    assert json.loads(path.read_text())["capabilities"]["marker_metadata"] == truth.marker_metadata
    assert "other things than at the last mount" in caplog.text


async def test_a_bucket_whose_versions_were_switched_off_is_tried_out_anew(
    seaweedfs: Server, bucket: str, tmp_path: Path
) -> None:
    config = S3Config(bucket, seaweedfs.endpoint, memory_file=str(tmp_path / "server.json"))
    async with S3Store(config) as store:
        assert store.capabilities.versioning
    seaweedfs.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    async with S3Store(config) as store:
        assert not store.capabilities.versioning
        with pytest.raises(Unsupported):
            await store.list_versions("")
