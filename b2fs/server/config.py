"""What `b2fs serve` is told, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from b2fs.core.hosts import is_loopback
from b2fs.errors import ConfigError
from b2fs.server.auth.keys import Account, ApplicationKey
from b2fs.server.http.limits import Limits


class FrontKind(Enum):
    """Which HTTP server carries the application."""

    OWN = "b2fs"
    HYPERCORN = "hypercorn"


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """A key that must exist: an account's name, the key's ID and its secret."""

    account: str
    key_id: str
    secret: str


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """One server.

    cert_file and key_file None: a self-signed certificate is kept in the directory, unless insecure_http.  port 0
    takes any free one.  caps: see classes.Caps.  durable False skips syncing, for tests.
    """

    directory: str
    host: str = "127.0.0.1"
    port: int = 9000
    cert_file: str | None = None
    key_file: str | None = None
    insecure_http: bool = False
    region: str = "us-east-1"
    domains: Sequence[str] = ()
    grants: Sequence[KeyGrant] = ()
    faults: Sequence[str] = ()
    fault_seed: int = 0
    latency_s: float = 0.0
    caps: Mapping[str, int] = field(default_factory=dict)
    hazard_seed: int | None = None
    max_buckets: int = 100
    refuse_checksums: bool = False
    durable: bool = True
    access_log: str | None = None
    front: FrontKind = FrontKind.OWN
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.insecure_http and not is_loopback(self.host):
            raise ConfigError(f"--insecure-http needs a loopback address, and {self.host} is none")
        if self.insecure_http and self.cert_file is not None:
            raise ConfigError("--insecure-http and --tls-cert exclude each other")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("--tls-cert and --tls-key belong together")


@dataclass(frozen=True, slots=True)
class Started:
    """What a user must know: where to connect, the file to trust, a key that was just made, whose keys were given."""

    url: str
    region: str
    trust_file: str | None
    first_key: ApplicationKey | None
    accounts: Sequence[Account] = ()


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9000` or `[::1]:9000`.  Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{text!r} is not an address and a port, as 127.0.0.1:9000")
    return host.strip("[]"), int(port)
