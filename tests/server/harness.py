"""A real `b2fs serve` process for tests: HTTPS with a test CA, two accounts, an access log."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import trustme
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY_ID = "0014fa0c5b6d1e20000000001"
OTHER_KEY_ID = "0014fa0c5b6d1e20000000002"
SECRET = "K001secretOfTheTestServer000000"
REGION = "us-east-1"


@dataclass(frozen=True)
class Authority:
    """The test CA: files for servers and clients."""

    ca_file: Path
    cert_file: Path
    key_file: Path

    @staticmethod
    def make(directory: Path) -> Authority:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "*.localhost", "127.0.0.1")
        found = Authority(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
        authority.cert_pem.write_to_path(str(found.ca_file))
        issued.private_key_pem.write_to_path(str(found.key_file))
        for index, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(found.cert_file), append=index > 0)
        return found


@dataclass
class Server:
    """A running server."""

    url: str
    directory: Path
    authority: Authority
    log_file: Path
    process: subprocess.Popen[str]
    stopping: bool = False

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def s3(
        self,
        key_id: str = KEY_ID,
        secret: str = SECRET,
        *,
        region: str = REGION,
        host: str = "127.0.0.1",
        **config: Any,
    ) -> S3Client:
        """A boto3 client that trusts the test CA and never repeats a call."""
        settings: dict[str, Any] = {"s3": {"addressing_style": "path"}, "retries": {"total_max_attempts": 1}}
        scheme = urlsplit(self.url).scheme
        return boto3.client(
            "s3",
            endpoint_url=f"{scheme}://{host}:{self.port}",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            region_name=region,
            verify=str(self.authority.ca_file),
            config=Config(**(settings | config)),
        )

    def connect(self) -> http.client.HTTPConnection:
        """A bare connection, for what no client library would send."""
        if self.url.startswith("https"):
            context = ssl.create_default_context(cafile=str(self.authority.ca_file))
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a new connection: status, headers by lower-case name, body."""
        connection = self.connect()
        try:
            connection.request(method, path, body or None, dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """Ask the server to end; what is under way may finish."""
        if not self.stopping:
            self.stopping = True
            self.process.terminate()

    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


@contextmanager
def run_server(
    directory: Path, authority: Authority, options: Sequence[str] = (), *, insecure: bool = False
) -> Iterator[Server]:
    """Start `b2fs serve` on a free port; stop it with SIGTERM and see that it ends well."""
    directory.mkdir(parents=True, exist_ok=True)
    secret_file = directory / "secret"
    secret_file.write_text(SECRET)
    log_file = directory / "access.log"
    tls = ["--insecure-http"] if insecure else [
        "--tls-cert", str(authority.cert_file), "--tls-key", str(authority.key_file)
    ]  # fmt: skip
    keys = []
    for account, key_id in (("main", KEY_ID), ("other", OTHER_KEY_ID)):
        keys += ["--account", account, "--key-id", key_id, "--key-file", str(secret_file)]
    command = [sys.executable, "-m", "b2fs", "serve", str(directory / "store"), "--listen", "127.0.0.1:0"]
    command += [*tls, *keys, "--access-log", str(log_file), "--no-sync", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if "listening on" not in first:
            process.kill()
            raise AssertionError(f"the server did not start: {first}{process.communicate()[1]}")
        url = first.split("listening on ")[1].split(",")[0]
        server = Server(url, directory, authority, log_file, process)
        yield server
        server.stop()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors == "", errors
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
