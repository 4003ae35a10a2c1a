"""What a user decides about an S3 store, validated at the edge.

Knows nothing of requests.  Every value that is wrong raises ConfigError with a sentence for the user.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from b2fs.core.hosts import is_loopback
from b2fs.errors import ConfigError

_B2_DOMAIN = "backblazeb2.com"
_AWS_DOMAINS = ("amazonaws.com", "amazonaws.com.cn")
_REGION = r"[a-z0-9][a-z0-9-]*"
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}"
# An account ID, which is also the master key's ID, is 12 hex digits; application keys have 25 (B2: S3-compatible API).
_B2_MASTER_KEY_ID = r"[0-9a-f]{12}"

MIN_CRT_MEMORY_BYTES = 256 << 20
"""The CRT refuses a smaller limit.  It is a ceiling, nothing is set aside."""


#: See S3Config.max_buffered_bytes.
MAX_BUFFERED_BYTES = 64 << 20


class RetryPolicy(NamedTuple):
    """How often and how long a call is tried again after a fault that may pass.

    A delay is drawn uniformly from [0, min(max_delay_s, base_delay_s * 2**n)] (full jitter), and is never shorter than
    what the server asked for.  deadline_s counts from the call's start and includes all attempts and waits.
    """

    attempts: int = 8
    base_delay_s: float = 0.2
    max_delay_s: float = 20.0
    deadline_s: float = 180.0

    def checked(self) -> RetryPolicy:
        """Itself.  Raises ConfigError."""
        if self.attempts < 1 or min(self.base_delay_s, self.max_delay_s) < 0 or self.deadline_s <= 0:
            raise ConfigError("the retry policy needs at least one attempt and times that are not negative")
        return self


class S3Config(NamedTuple):
    """One bucket behind one endpoint.

    endpoint is a URL without a path; None means Amazon's endpoint of the region.  profile names a section of the AWS
    configuration files; None takes the default chain.  Credentials themselves never stand here.
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    #: The bucket was named by a b2:// URL: the endpoint follows from the region, and B2's key rules apply.
    backblaze: bool = False
    #: Allow http:// to a host that is not loopback.
    insecure_http: bool = False
    addressing: Literal["path", "virtual"] = "path"
    #: A PEM file with the certificates to trust instead of the system's.
    ca_bundle: str | None = None
    #: A read-only store sends nothing that changes the bucket; its probe assumes the least instead of trying.
    read_only: bool = False
    #: Connections to the endpoint, which is also the bound on requests in flight.  At 20 ms round trip one connection
    #: carries about 45 small requests a second.
    max_connections: int = 64
    #: Bound on the bodies that requests in flight hold, up and down together.  The CRT's copies come on top: measured
    #: with 8 MiB bodies, the process grows by about three times this.
    max_buffered_bytes: int = MAX_BUFFERED_BYTES
    #: What the CRT may buffer on its side.
    memory_limit_bytes: int = 256 << 20
    connect_timeout_s: float = 5.0
    #: A request without progress for so long has failed.  The CRT itself gives up on a silent connection after 30 s.
    stall_timeout_s: float = 30.0
    #: A body may take stall_timeout_s plus its size divided by this; a guess at the slowest link worth waiting for.
    min_bytes_per_s: int = 64 << 10
    #: Where it is remembered, between runs, what the server can do; None finds it out anew each time.
    memory_file: str | None = None
    #: A server of which nothing is remembered is tried out behind the first calls, not before them.
    prove_behind: bool = False
    retry: RetryPolicy = RetryPolicy()

    def checked(self) -> S3Config:
        """Itself.  Raises ConfigError."""
        if not re.fullmatch(_BUCKET, self.bucket):
            raise ConfigError(f"{self.bucket!r} is not a bucket name")
        if self.region is not None and not re.fullmatch(_REGION, self.region):
            raise ConfigError(f"{self.region!r} is not a region name")
        if self.max_connections < 1 or self.max_buffered_bytes < 1:
            raise ConfigError("an S3 store needs at least one connection and a buffer")
        if self.memory_limit_bytes < MIN_CRT_MEMORY_BYTES:
            raise ConfigError(f"memory_limit_bytes must be at least {MIN_CRT_MEMORY_BYTES}")
        if min(self.connect_timeout_s, self.stall_timeout_s) <= 0 or self.min_bytes_per_s < 1:
            raise ConfigError("timeouts must be positive")
        _check_url(self.url, self.insecure_http)
        self.retry.checked()
        return self

    @property
    def url(self) -> str:
        """The endpoint's URL, made from the region where none was given."""
        if self.endpoint is not None:
            return self.endpoint.rstrip("/")
        if self.backblaze:
            if self.region is None:
                raise ConfigError("b2:// needs a region such as us-west-004 (or an endpoint)")
            return b2_endpoint(self.region)
        return f"https://s3.{self.region or 'us-east-1'}.amazonaws.com"

    @property
    def signing_region(self) -> str:
        """The region that signatures name: given, or part of a Backblaze host name, or Amazon's default."""
        if self.region is not None:
            return self.region
        host = re.fullmatch(rf"s3\.({_REGION})\.{re.escape(_B2_DOMAIN)}", self.hostname) if self.is_backblaze else None
        return host[1] if host else "us-east-1"

    @property
    def hostname(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def tls(self) -> bool:
        return self.url.startswith("https://")

    @property
    def is_loopback(self) -> bool:
        """Whether no network lies between us and the server."""
        return is_loopback(self.hostname)

    @property
    def is_backblaze(self) -> bool:
        return self.backblaze or _is_within(self.hostname, _B2_DOMAIN)

    @property
    def is_amazon(self) -> bool:
        return any(_is_within(self.hostname, domain) for domain in _AWS_DOMAINS)

    @property
    def host_header(self) -> str:
        """The value of Host: the endpoint's, with the bucket in front in virtual addressing."""
        authority = urlsplit(self.url).netloc
        return f"{self.bucket}.{authority}" if self.addressing == "virtual" else authority

    @property
    def connect_address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        parts = urlsplit(f"//{self.host_header}")
        return parts.hostname or "", parts.port or (443 if self.tls else 80)

    @property
    def identity(self) -> str:
        """Endpoint and bucket in one text, without secrets."""
        return f"{self.url}/{self.bucket}"


def _is_within(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")


def b2_endpoint(region: str) -> str:
    """The URL of Backblaze's S3-compatible API in a region."""
    return f"https://s3.{region}.backblazeb2.com"


def check_credentials(config: S3Config, key_id: str, secret: str | None = None) -> None:
    """Raise ConfigError for what servers refuse with a misleading message.

    That is B2's master key, and a key that was copied with a blank or the end of its line.
    """
    for text, what in ((key_id, "access key ID"), (secret, "secret access key")):
        if text and (not (text.isascii() and text.isprintable()) or " " in text):
            raise ConfigError(
                f"the {what} has a blank, the end of a line or another character in it that no key has: "
                "see how it was copied"
            )
    if config.is_backblaze and re.fullmatch(_B2_MASTER_KEY_ID, key_id):
        raise ConfigError(
            "this is the ID of the B2 master key, which does not work with the S3-compatible API: "
            "create an application key (Backblaze: Application Keys, Add a New Application Key) and use its ID and key"
        )


def _check_url(url: str, insecure_http: bool) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not an endpoint URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is not an endpoint URL: it must start with https://")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError("an endpoint URL is scheme, host and port only")
    if parts.scheme == "http" and not insecure_http and not is_loopback(parts.hostname):
        raise ConfigError(f"{url} is not encrypted: use https://, or allow it with --insecure-http")
