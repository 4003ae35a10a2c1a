#!/usr/bin/env python3
"""Measure what one small request of S3Store costs this process: microseconds of CPU for each, by thread.

    smallcalls.py [--endpoint URL --bucket NAME] [--tls] [--calls put,head,...] [--count N] [--size BYTES]
                  [--parallel 16,32,64]

Without --endpoint the server is a process that gives fixed answers and costs little itself; --tls puts it behind TLS.
Credentials of a given endpoint come from the environment, as everywhere.  Times on the wall say little on a busy
machine; CPU is that of the whole process, "loop" the part of the thread of the event loop, "others" that of all others.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import selectors
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection

import trio

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from b2fs.core.types import Capabilities, ObjectInfo
from b2fs.store.s3 import S3Config, S3Store

PREFIX = "smallcalls-benchmark/"
ROW = (
    "<Contents><Key>a/file-%05d</Key><LastModified>2024-01-01T00:00:00Z</LastModified>"
    "<ETag>&quot;%032x&quot;</ETag><Size>4096</Size></Contents>"
)


class FixedServer:
    """Answers each request by its method alone, on one thread."""

    def __init__(self, size: int, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._selector = selectors.EpollSelector()
        self._buffers: dict[socket.socket, bytearray] = {}
        self._answers = _answers(size)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve(self) -> None:
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    self._read(key.fileobj)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            try:
                client = self._tls.wrap_socket(client, server_side=True)
            except OSError:
                return
        client.setblocking(False)
        self._buffers[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ)

    def _read(self, client: socket.socket) -> None:
        buffer = self._buffers[client]
        try:
            while True:
                data = client.recv(1 << 20)
                buffer += data
                if not data or not isinstance(client, ssl.SSLSocket) or not client.pending():
                    break
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(client)
            del self._buffers[client]
            client.close()
            return
        while (answer := self._next(buffer)) is not None:
            client.setblocking(True)
            client.sendall(answer)
            client.setblocking(False)

    def _next(self, buffer: bytearray) -> bytes | None:
        """The answer to the first request of the buffer, which is taken out; None while it is not complete."""
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(buffer[:end])
        at = head.lower().find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(buffer) < end + 4 + length:
            return None
        del buffer[: end + 4 + length]
        kind = head.split(b" ", 1)[0]
        if kind == b"GET" and b"list-type=2" in head:
            return self._answers[b"LIST" if b"max-keys=1000" in head else b"EMPTY"]
        if kind == b"PUT" and b"x-amz-copy-source" in head.lower():
            return self._answers[b"COPY"]
        return self._answers[kind]


def _answers(size: int) -> dict[bytes, bytes]:
    content = bytes(size)
    etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    common = (
        "Accept-Ranges: bytes\r\nServer: fixed\r\nX-Amz-Request-Id: 18EA394B09AB74D0AD577DD1\r\n"
        f'X-Amz-Version-Id: 3f1a\r\nETag: "{etag}"\r\nDate: Sun, 22 Nov 2026 01:19:55 GMT\r\n'
        "Last-Modified: Sun, 22 Nov 2026 01:19:55 GMT\r\n"
    )

    def answer(status: str, body: bytes, length: int | None = None) -> bytes:
        told = len(body) if length is None else length
        return f"HTTP/1.1 {status}\r\n{common}Content-Length: {told}\r\n\r\n".encode() + body

    listing = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>%s</ListBucketResult>'
    rows = "".join(ROW % (number, number) for number in range(1000))
    return {
        b"PUT": answer("200 OK", b""),
        b"HEAD": answer("200 OK", b"", size),
        b"GET": answer("200 OK", content),
        b"DELETE": f"HTTP/1.1 204 No Content\r\n{common}\r\n".encode(),
        b"COPY": answer("200 OK", f'<CopyObjectResult><ETag>"{etag}"</ETag></CopyObjectResult>'.encode()),
        b"LIST": answer("200 OK", (listing % rows).encode()),
        b"EMPTY": answer("200 OK", (listing % "").encode()),
    }


def _serve(size: int, certificate: str | None, ready: Connection) -> None:
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    server = FixedServer(size, tls)
    ready.send(server.listener.getsockname()[1])
    server.serve()


@contextlib.contextmanager
def fixed_server(size: int, tls: bool) -> Iterator[tuple[str, str | None]]:
    """The endpoint of a fixed server in a process of its own, and the bundle that it is to be trusted by."""
    os.environ.update(AWS_ACCESS_KEY_ID="AK", AWS_SECRET_ACCESS_KEY="SK")
    with tempfile.TemporaryDirectory() as directory:
        certificate = bundle = None
        if tls:
            import trustme

            authority = trustme.CA()
            certificate, bundle = f"{directory}/server.pem", f"{directory}/ca.pem"
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
            authority.cert_pem.write_to_path(bundle)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_serve, args=(size, certificate, theirs), daemon=True)
        process.start()
        try:
            yield f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{ours.recv()}", bundle
        finally:
            process.kill()
            process.join()


def _seconds_by_thread() -> dict[str, float]:
    """CPU of each thread of this process so far."""
    times = {}
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/schedstat") as file:
            times[thread] = int(file.read().split()[0]) / 1e9
    return times


async def many(count: int, parallel: int, one: Callable[[int], Awaitable[object]]) -> None:
    indexes = iter(range(count))

    async def worker() -> None:
        for index in indexes:
            await one(index)

    async with trio.open_nursery() as nursery:
        for _ in range(parallel):
            nursery.start_soon(worker)


def calls(
    store: S3Store, args: argparse.Namespace, source: ObjectInfo
) -> dict[str, Callable[[int], Awaitable[object]]]:
    body = bytes(args.size)
    metadata = {
        "mode": "33188",
        "mtime": "1763769600.123456789",
        "uid": "0",
        "gid": "0",
        "b2fs-writer": "0123456789abcdef",
    }
    return {
        "put": lambda index: store.put(f"{PREFIX}p/{index:05d}", body, metadata=metadata),
        "head": lambda index: store.head(f"{PREFIX}p/{index:05d}"),
        "get": lambda index: store.get(f"{PREFIX}p/{index:05d}", start=0, end=args.size),
        "copy": lambda index: store.copy(source.ref, f"{PREFIX}c/{index:05d}"),
        "delete": lambda index: store.hide(f"{PREFIX}p/{index:05d}"),
        "list1000": lambda _: store.list_objects(PREFIX),
        "list0": lambda _: store.list_objects(PREFIX + "none", max_keys=100),
    }


async def measure(endpoint: str, bundle: str | None, args: argparse.Namespace) -> None:
    config = S3Config(args.bucket, endpoint, ca_bundle=bundle, region=args.region)
    async with S3Store(config, Capabilities(versioning=True, copy=True, copy_from_version=True)) as store:
        source = await store.put(f"{PREFIX}source", bytes(args.size))
        every = calls(store, args, source)
        await many(300, 32, every["put"])  # the ways that are taken at first are not what is measured
        for parallel in map(int, args.parallel.split(",")):
            for name in args.calls.split(","):
                count = args.count // 10 if name == "list1000" else args.count
                await many(parallel, parallel, every[name])
                wall, used, before = time.perf_counter(), time.process_time(), _seconds_by_thread()
                await many(count, parallel, every[name])
                wall, used, after = time.perf_counter() - wall, time.process_time() - used, _seconds_by_thread()
                own = str(threading.main_thread().native_id)
                loop = after[own] - before[own]
                sys.stdout.write(
                    f"{name:9} {parallel:3} at a time: {used * 1e6 / count:6.0f} us (loop {loop * 1e6 / count:6.0f}, "
                    f"others {(used - loop) * 1e6 / count:6.0f}), {count / wall:7.0f}/s\n"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint")
    parser.add_argument("--bucket", default="bucket")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--calls", default="put,head,get,copy,delete,list1000,list0")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--parallel", default="32")
    args = parser.parse_args()
    sys.setswitchinterval(0.0002)  # as the daemon does
    if args.endpoint:
        trio.run(measure, args.endpoint, None, args)
        return
    with fixed_server(args.size, args.tls) as (endpoint, bundle):
        trio.run(measure, endpoint, bundle, args)


if __name__ == "__main__":
    main()
