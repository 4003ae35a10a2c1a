"""`b2fs serve` beside moto_server, `rclone serve s3` and SeaweedFS: requests and bytes per second, one after the other.

The client is a raw-socket loop with presigned URLs, since boto3 cannot send more than some 600 requests a second.
Run: python benchmarks/server.py [--seconds 3] [--clients 16] [--moto PATH] [--only b2fs,moto,...]
moto_server comes from `pip install 'moto[server,s3]'`, preferably in an environment of its own.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY_ID, SECRET, REGION, BUCKET = "0014fa0c5b6d1e20000000001", "secretOfTheBenchmark0000", "us-east-1", "bench-bucket"
SMALL, LARGE = b"x" * 4096, b"y" * (8 << 20)
LISTED = 10_000


@dataclass(frozen=True)
class Peer:
    """A server to measure: its command for a directory and a port."""

    name: str
    command: Callable[[Path, int], list[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def b2fs_command(directory: Path, port: int, *options: str) -> list[str]:
    secret = directory / "secret"
    secret.write_text(SECRET)
    command = [sys.executable, "-m", "b2fs", "serve", str(directory / "store"), "--listen", f"127.0.0.1:{port}"]
    return [*command, "--insecure-http", "--key-id", KEY_ID, "--key-file", str(secret), *options]


def rclone_command(directory: Path, port: int) -> list[str]:
    (directory / "data").mkdir()
    return [find("rclone"), "serve", "s3", str(directory / "data"), "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{KEY_ID},{SECRET}"]  # fmt: skip


def weed_command(directory: Path, port: int) -> list[str]:
    config = directory / "s3.json"
    credentials = [{"accessKey": KEY_ID, "secretKey": SECRET}]
    config.write_text(
        json.dumps(
            {"identities": [{"name": "b", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}]}
        )
    )
    (directory / "data").mkdir()
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3.grpc")
    ports = [f"-{name.replace('.', '.port.') if '.' in name else name + '.port'}={free_port()}" for name in names]
    options = [f"-filer.localSocket={directory}/filer.sock", f"-s3.localSocket={directory}/s3.sock", f"-s3.port={port}"]
    options += [f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=50", *ports]
    return [find("weed"), "server", f"-dir={directory / 'data'}", "-ip=127.0.0.1", "-filer", "-s3", *options]


def find(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def peers(moto: str) -> list[Peer]:
    return [
        Peer("b2fs", b2fs_command),
        Peer("b2fs, hypercorn", lambda d, p: b2fs_command(d, p, "--front", "hypercorn")),
        Peer("moto", lambda _, p: [moto, "-H", "127.0.0.1", "-p", str(p)]),
        Peer("rclone", rclone_command),
        Peer("seaweedfs", weed_command),
    ]


def connect(port: int) -> Any:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
    )
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=KEY_ID,
                        aws_secret_access_key=SECRET, region_name=REGION, config=config)  # fmt: skip


@contextmanager
def running(peer: Peer, directory: Path) -> Iterator[tuple[Any, int]]:
    """The server with a bucket, once it answers."""
    port = free_port()
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(peer.command(directory, port), stdout=log, stderr=log)
    try:
        s3, deadline = connect(port), time.monotonic() + 60
        while True:
            try:
                s3.create_bucket(Bucket=BUCKET)
                break
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield s3, port
    finally:
        process.kill()
        process.wait()


def raw_request(s3: Any, method: str, call: str, key: str, body: bytes = b"") -> bytes:
    url = urlsplit(s3.generate_presigned_url(call, Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=3600))
    head = f"{method} {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n"
    if method == "PUT":
        head += f"Content-Length: {len(body)}\r\nContent-Type: application/octet-stream\r\n"
    return head.encode() + b"\r\n" + body


class Lane:
    """One connection that sends a request as soon as the answer before is complete."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._bodiless = request.startswith(b"HEAD")
        self.done = 0
        self._open()

    def _open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head, self._left, self._closes = b"", -1, False

    def send(self) -> None:
        self.socket.sendall(self._request)

    def readable(self) -> bool:
        """Take what has come; whether the answer is complete.  A server that closes is connected to again."""
        data = self.socket.recv(1 << 20)
        if self._left < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if not data:
                    raise ConnectionError(f"closed after {self._head[:200]!r}")
                return False
            self._start(self._head[:end], len(self._head) - end - 4)
        else:
            self._left -= len(data)
        if self._left > 0:
            return False
        self.done += 1
        self._head, self._left = b"", -1
        return True

    def _start(self, head: bytes, have: int) -> None:
        if b" 200 " not in head[:20]:
            raise ConnectionError(f"refused: {self._head[:500]!r}")
        lines = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
        self._closes = lines.get(b"connection", b"").lower() == b"close"
        self._left = 0 if self._bodiless else int(lines.get(b"content-length", b"0")) - have

    @property
    def closes(self) -> bool:
        return self._closes

    def reopen(self) -> None:
        self.socket.close()
        self._open()


def rate(port: int, requests: Sequence[bytes], seconds: float) -> float:
    """Answers per second; each request has a connection of its own."""
    selector = selectors.DefaultSelector()
    for request in requests:
        lane = Lane(port, request)
        selector.register(lane.socket, selectors.EVENT_READ, lane)
        lane.send()
    started = time.monotonic()
    total = 0
    while (now := time.monotonic()) < started + seconds:
        for key, _ in selector.select(1):
            lane = key.data
            if lane.readable():
                total += 1
                if lane.closes:
                    selector.unregister(lane.socket)
                    lane.reopen()
                    selector.register(lane.socket, selectors.EVENT_READ, lane)
                lane.send()
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return total / (now - started)


def put_rate(s3: Any, port: int, clients: int, seconds: float) -> float:
    """8 MiB uploads per second, each connection in a thread, since sending blocks."""
    deadline = time.monotonic() + seconds

    def one(number: int) -> int:
        lane, count = Lane(port, raw_request(s3, "PUT", "put_object", f"large-{number}", LARGE)), 0
        while time.monotonic() < deadline:
            lane.send()
            while not lane.readable():
                pass
            count += 1
            if lane.closes:
                lane.reopen()
        return count

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(one, range(clients))) / (time.monotonic() - started)


def list_seconds(s3: Any) -> float:
    """Listing 10,000 keys, page by page."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: s3.put_object(Bucket=BUCKET, Key=f"listed/{n:06}", Body=b""), range(LISTED)))
    started, seen, token = time.monotonic(), 0, ""
    while True:
        # By hand: boto3 takes longer to read a page than a server to write it.
        params = {"Bucket": BUCKET, "Prefix": "listed/"} | ({"ContinuationToken": token} if token else {})
        url = s3.generate_presigned_url("list_objects_v2", Params=params, ExpiresIn=3600)
        with urllib.request.urlopen(url) as answer:
            page: str = answer.read().decode()
        seen += page.count("<Key>")
        following = re.search("<NextContinuationToken>(.*?)<", page)
        if following is None:
            break
        token = html.unescape(following[1])
    assert seen == LISTED, seen
    return time.monotonic() - started


def measure(peer: Peer, clients: int, seconds: float) -> dict[str, float]:
    """All figures of one server."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as text, running(peer, Path(text)) as (s3, port):
        s3.put_object(Bucket=BUCKET, Key="small", Body=SMALL)
        s3.put_object(Bucket=BUCKET, Key="large", Body=LARGE)
        found = {
            "GET 4 KiB /s": rate(port, [raw_request(s3, "GET", "get_object", "small")] * clients, seconds),
            "HEAD /s": rate(port, [raw_request(s3, "HEAD", "head_object", "small")] * clients, seconds),
            # A key for each client: not every server bears two writers on one.
            "PUT 4 KiB /s": rate(
                port, [raw_request(s3, "PUT", "put_object", f"new-{n}", SMALL) for n in range(clients)], seconds
            ),
        }
        megabytes = len(LARGE) / 1e6
        found["GET 8 MiB MB/s"] = rate(port, [raw_request(s3, "GET", "get_object", "large")] * 4, seconds) * megabytes
        found["PUT 8 MiB MB/s"] = put_rate(s3, port, 4, seconds) * megabytes
        found["list 10,000 s"] = list_seconds(s3)
        return found


def main() -> None:
    """Measure and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--moto", default=find("moto_server"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else None
    results: dict[str, dict[str, float]] = {}
    for peer in peers(options.moto):
        if wanted is not None and peer.name not in wanted:
            continue
        try:
            results[peer.name] = measure(peer, options.clients, options.seconds)
        except (OSError, AssertionError, BotoCoreError) as error:
            sys.stderr.write(f"{peer.name}: {error}\n")
    names = list(results)
    rows = list(next(iter(results.values())))
    sys.stdout.write(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n")
    for row in rows:
        sys.stdout.write(f"| {row} | {' | '.join(f'{results[name][row]:.4g}' for name in names)} |\n")


if __name__ == "__main__":
    main()
