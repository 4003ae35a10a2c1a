"""MountSettings: everything that a mount was asked to be, checked, in one frozen value.

One table, OPTIONS, describes every option once; the command line, `-o` lists, fstab and the environment (B2FS_*)
all go through it.  A field is added here and in the table, and carried to its component in `components`.
INVARIANT: settings hold no secret, so they may be logged, shown and kept in a file (I11).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from b2fs.config.location import FileLocation, Location, parse_location
from b2fs.config.units import (
    parse_duration,
    parse_flag,
    parse_id,
    parse_octal,
    parse_quota,
    parse_rates,
    parse_size,
    render_duration,
    render_quota,
    render_rates,
    render_size,
)
from b2fs.core.hosts import is_loopback
from b2fs.errors import ConfigError

FsyncLevel = Literal["bucket", "local"]
Conflict = Literal["ours-on-top", "keep-both"]
ForeignAttrs = Literal["sample", "head"]
RandomReads = Literal["auto", "exact", "whole"]

#: Less would not hold the parts of one large file in flight.
MIN_MEMORY_BYTES = 64 << 20
MIN_CACHE_BYTES = 64 << 20
_AWS_CA_BUNDLE = "AWS_CA_BUNDLE"
#: Variables of ours, and those among them that set no option.
_PREFIX = "B2FS_"
_OTHER_VARIABLES = {"B2FS_RUNTIME_DIR", "B2FS_URL", "B2FS_MOUNTPOINT"}
#: Names that are as much alike as this are one, misspelt; a guess that takes B2FS_LONG for none.
_ALIKE = 0.85


def default_cache_dir() -> str:
    """The root under which every mount has its identity directory."""
    if os.geteuid() == 0:
        return "/var/cache/b2fs"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "b2fs")


class MountSettings(NamedTuple):
    """One mount; paths are absolute, sizes in bytes, times in seconds; None means the component's own default."""

    location: Location
    mountpoint: str
    read_only: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    allow_other: bool = False
    nonempty: bool = False
    noexec: bool = False
    dev: bool = False
    suid: bool = False
    acl: bool = False
    cache_dir: str = ""
    cache_size: int = 10 << 30
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    insecure_http: bool = False
    ca_bundle: str | None = None
    fsync: FsyncLevel = "bucket"
    sync_on_close: bool = False
    conflict: Conflict = "ours-on-top"
    memory_limit: int = 256 << 20
    random_reads: RandomReads = "auto"
    #: Bytes a second up and down; 0 is no bound.
    bwlimit: tuple[int, int] | None = None
    metadata_ttl: float = 60.0
    #: Bytes and number of files; files None: no limit.
    quota: tuple[int, int | None] | None = None
    foreign_attrs: ForeignAttrs = "sample"
    no_attr_index: bool = False
    log_file: str | None = None
    log_level: str = "info"


class Option(NamedTuple):
    """One option: how its text becomes a field of MountSettings and back.  metavar is None for a flag."""

    name: str
    metavar: str | None
    help: str
    parse: Callable[[str], Any] = str
    render: Callable[[Any], str] = str
    #: A flag that may be set without being asked for.
    may_be_set: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def opposite(self) -> str | None:
        """The word that takes a flag back which may be set without being asked for."""
        return "--no-" + self.flag[2:] if self.may_be_set else None

    @property
    def is_flag(self) -> bool:
        return self.metavar is None

    @property
    def variable(self) -> str:
        """The environment variable that gives a default."""
        return "B2FS_" + self.name.upper()


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ConfigError(f"{text!r} is none of {', '.join(allowed)}")
        return text

    return parse


def _flag(name: str, text: str) -> Option:
    return Option(name, None, text, parse_flag)


OPTIONS: tuple[Option, ...] = (
    _flag("read_only", "Refuse every change."),
    Option("uid", "ID", "Owner of objects that carry none (default: you).", parse_id),
    Option("gid", "ID", "Group of objects that carry none (default: yours).", parse_id),
    Option(
        "umask", "OCTAL", "Permission bits to take from objects that carry no mode.", parse_octal, lambda v: f"{v:03o}"
    ),
    Option(
        "allow_other",
        None,
        "Let other users in, or not (permissions are checked by the kernel); root's mounts do by default.",
        parse_flag,
        may_be_set=True,
    ),
    _flag("nonempty", "Mount over a directory that is not empty."),
    _flag("noexec", "Refuse to run programs from the mount."),
    _flag("dev", "Let device files be opened (root alone may give this)."),
    _flag("suid", "Let set-user-ID and set-group-ID bits of programs count (root alone may give this)."),
    _flag("acl", "Keep POSIX access control lists, and let the kernel check them."),
    Option("cache_dir", "DIR", "Root of the caches.", os.path.abspath),
    Option("cache_size", "SIZE", "Disk space for cached content (default: 10G).", parse_size, render_size),
    Option("endpoint", "URL", "The S3 endpoint, for example https://s3.us-west-004.backblazeb2.com."),
    Option("region", "NAME", "The bucket's region, for example us-west-004."),
    Option("profile", "NAME", "The profile in ~/.aws that holds the keys."),
    _flag("insecure_http", "Allow an http:// endpoint that is not on this machine."),
    Option("ca_bundle", "FILE", "Certificates (PEM) to trust in the place of the system's.", os.path.abspath),
    Option(
        "fsync",
        "bucket|local",
        "What fsync waits for: the bucket (default) or the local disk.",
        _choice("bucket", "local"),
    ),
    _flag("sync_on_close", "Let close wait for the bucket too, for programs that never call fsync."),
    Option(
        "conflict",
        "ours-on-top|keep-both",
        "When somebody else has changed a file too: put ours on top of theirs, which stays as an older version "
        "(default), or give theirs a name of its own as well.",
        _choice("ours-on-top", "keep-both"),
    ),
    Option(
        "memory_limit",
        "SIZE",
        "Memory for reading ahead and for uploads together (default: 256M, at least 64M).",
        parse_size,
        render_size,
    ),
    Option(
        "random_reads",
        "auto|exact|whole",
        "What reading pieces here and there in a large file fetches: those pieces (exact), or, once it pays, the whole "
        "file beside them, if it has at most a quarter of --cache-size (whole); by default (auto) the latter only from "
        "a server that is far away, and up to a sixteenth of --cache-size.",
        _choice("auto", "exact", "whole"),
    ),
    Option(
        "bwlimit",
        "UP[:DOWN]",
        "Bytes a second to send and to receive, for example 1M:10M; one value is for both, 0 is no bound "
        "(default: none).",
        parse_rates,
        render_rates,
    ),
    Option(
        "metadata_ttl",
        "TIME",
        "How long a listing is trusted before other clients' changes are looked for (default: 60s).",
        parse_duration,
        render_duration,
    ),
    Option(
        "quota",
        "SIZE[:FILES]",
        "How much may be stored, and in how many files; df shows it as the size (default: no end).",
        parse_quota,
        render_quota,
    ),
    Option(
        "foreign_attrs",
        "sample|head",
        "How mode, owner and time of objects that other programs stored are found: asked of a sample where there are "
        "many (default), or of every one.",
        _choice("sample", "head"),
    ),
    _flag(
        "no_attr_index",
        "Keep no index of attributes in the bucket, where nothing may appear but what you store yourself.",
    ),
    Option("log_file", "FILE", "Write the log to FILE.", os.path.abspath),
    Option(
        "log_level", "LEVEL", "debug, info (default), warning or error.", _choice("debug", "info", "warning", "error")
    ),
)
_BY_NAME = {option.name: option for option in OPTIONS}


def raw_from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The options that B2FS_* variables set, and the certificates that the AWS tools are told to trust.

    Raises ConfigError for a variable that can only be a misspelt option: nobody would see that it does nothing.
    """
    known = {option.variable for option in OPTIONS}
    for name in environ.keys() - known - _OTHER_VARIABLES:
        if name.startswith(_PREFIX):
            _check_spelling(name, known)
    raw = {option.name: environ[option.variable] for option in OPTIONS if environ.get(option.variable)}
    if environ.get(_AWS_CA_BUNDLE):
        raw.setdefault("ca_bundle", environ[_AWS_CA_BUNDLE])
    return raw


def _check_spelling(name: str, known: set[str]) -> None:
    import difflib  # not where all is spelt right

    for meant in difflib.get_close_matches(name, known, 1, _ALIKE):
        raise ConfigError(f"{name} is no option of a mount; did you mean {meant}?")


def known_option(name: str) -> bool:
    """Whether `name`, with underscores, is an option of a mount."""
    return name in _BY_NAME


def build_settings(url: str, mountpoint: str, raw: Mapping[str, str]) -> MountSettings:
    """Check and combine; raw maps option names (with underscores) to their text, later sources already on top.

    Raises ConfigError with one clear sentence for the first thing that is wrong.
    """
    values: dict[str, Any] = {}
    for name, text in raw.items():
        option = _BY_NAME.get(name)
        if option is None:
            raise ConfigError(f"{name} is not an option of a mount")
        if not text and not option.is_flag:
            raise ConfigError(f"{option.flag} needs a value")
        try:
            values[name] = option.parse(text)
        except ConfigError as error:
            raise ConfigError(f"{option.flag}: {error}") from None
    values.setdefault("cache_dir", default_cache_dir())
    # What root mounts is the machine's, as its local filesystems are: services and programs that change their user.
    values.setdefault("allow_other", os.geteuid() == 0)
    settings = MountSettings(parse_location(url), os.path.abspath(mountpoint), **values)
    _check(settings)
    return settings


def _check(settings: MountSettings) -> None:
    """The rules that tie fields together."""
    if settings.cache_size < MIN_CACHE_BYTES:
        raise ConfigError(f"--cache-size: at least {render_size(MIN_CACHE_BYTES)} are needed")
    if settings.memory_limit < MIN_MEMORY_BYTES:
        raise ConfigError(f"--memory-limit: at least {render_size(MIN_MEMORY_BYTES)} are needed")
    for name in ("dev", "suid"):
        if getattr(settings, name) and os.geteuid() != 0:
            raise ConfigError(f"--{name} is for root: whoever may write to the bucket could become root with it")
    if isinstance(settings.location, FileLocation):
        for name in ("endpoint", "region", "profile"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"--{name} is for s3:// and b2:// buckets; {settings.location.url} is a local one")
        return
    if settings.location.scheme == "b2" and not (settings.region or settings.endpoint):
        raise ConfigError(
            "A b2:// bucket needs --region, for example --region us-west-004 "
            "(the middle of the endpoint that the bucket's page shows)"
        )
    if settings.endpoint is not None:
        _check_endpoint(settings.endpoint, settings.insecure_http)


def _check_endpoint(endpoint: str, insecure_http: bool) -> None:
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"--endpoint: {endpoint!r} is not a URL: {error}") from None
    if parts.username or parts.password:
        raise ConfigError("--endpoint: a URL must not hold a key")
    if parts.scheme not in ("https", "http") or not host or parts.path not in ("", "/") or parts.query:
        raise ConfigError(f"--endpoint: {endpoint!r} is not of the form https://HOST[:PORT]")
    if parts.scheme == "http" and not insecure_http and not is_loopback(host):
        raise ConfigError(
            f"--endpoint: {endpoint} is not encrypted, so keys and data could be read on the way; "
            "use https://, or give --insecure-http if you mean it"
        )


def settings_as_text(settings: MountSettings) -> dict[str, str]:
    """Every field that is set, as text that build_settings reads back (with "url" beside the options)."""
    texts = {"url": settings.location.url, "mountpoint": settings.mountpoint}
    for name, value in settings._asdict().items():
        option = _BY_NAME.get(name)
        if option is None or value is None or (value is False and not option.may_be_set):
            continue
        texts[name] = ("yes" if value else "no") if option.is_flag else option.render(value)
    return texts
