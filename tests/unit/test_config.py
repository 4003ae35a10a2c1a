"""Text to settings: what is accepted, what is refused with which sentence, and that settings survive a command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2fs.cache.reader import ReaderConfig
from b2fs.config.components import s3_config, vfs_config
from b2fs.config.location import FileLocation, RemoteLocation, parse_location
from b2fs.config.mount_options import raw_from_options, split_options
from b2fs.config.settings import (
    OPTIONS,
    MountSettings,
    build_settings,
    raw_from_environment,
    settings_as_text,
)
from b2fs.config.units import (
    parse_duration,
    parse_flag,
    parse_id,
    parse_octal,
    parse_size,
    render_duration,
    render_size,
    show_size,
)
from b2fs.core.completion import Patience
from b2fs.errors import ConfigError

FILE_URL = "file:///srv/store/photos"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1K", 1024),
        ("10G", 10 << 30),
        ("512M", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2tb", 2 << 40),
    ],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "10X", "1e9", "10 G B", "ten", "1..5G"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 1 << 70))
def test_rendered_sizes_read_back(size: int) -> None:
    assert parse_size(render_size(size)) == size


def test_sizes_for_people() -> None:
    assert [show_size(size) for size in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("500ms", 0.5), ("5m", 300), ("1.5h", 5400), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000))
def test_rendered_durations_read_back(seconds: float) -> None:
    assert parse_duration(render_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_octal, "8"),
        (parse_octal, "07777"),
        (parse_id, "root"),
        (parse_id, "4294967295"),
        (parse_flag, "maybe"),
        (parse_duration, "1 week"),
    ],
)
def test_malformed_values_are_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (FILE_URL, FileLocation("/srv/store", "photos")),
        ("file:///photos", FileLocation("/", "photos")),
        ("file:////srv//store/x/../photos/", FileLocation("/srv/store", "photos")),
        ("file:///srv/my%20store/my%20photos", FileLocation("/srv/my store", "my photos")),
        ("s3://photos", RemoteLocation("s3", "photos")),
        ("s3://photos/", RemoteLocation("s3", "photos")),
        ("s3://photos/2024/may", RemoteLocation("s3", "photos", "2024/may/")),
        ("b2://Photos-1/a%20b/", RemoteLocation("b2", "Photos-1", "a%20b/")),
    ],
)
def test_urls(url: str, location: FileLocation | RemoteLocation) -> None:
    assert parse_location(url) == location
    assert parse_location(location.url) == location


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("photos", "is not a bucket URL"),
        ("ftp://photos", "is not a bucket URL"),
        ("file://srv/store", "absolute path"),
        ("file:///", "names no bucket"),
        ("s3://", "is not a bucket name"),
        ("s3://UPPER", "is not a bucket name"),
        ("b2://short", "is not a B2 bucket name"),
        ("s3://photos//x", "empty"),
        ("s3://photos/../x", "'..'"),
        ("s3://photos/" + "x" * 800, "at most"),
        ("s3://photos/\udc80", "printable"),
    ],
)
def test_malformed_urls_are_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_location(url)


@pytest.mark.parametrize("url", ["s3://AKIA:geheim@photos", "b2://0123:geheim@photos/x", "ftp://me:geheim@host"])
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_location(url)
    assert "geheim" not in str(caught.value)


def test_defaults() -> None:
    settings = build_settings(FILE_URL, "/mnt", {})
    location = FileLocation("/srv/store", "photos")
    root = os.geteuid() == 0
    assert settings == MountSettings(location, "/mnt", allow_other=root, cache_dir=settings.cache_dir)
    assert os.path.isabs(settings.cache_dir)


@pytest.mark.parametrize(
    ("url", "raw", "why"),
    [
        (FILE_URL, {"colour": "red"}, "colour is not an option"),
        (FILE_URL, {"cache_size": "ten"}, "--cache-size: 'ten' is not a size"),
        (FILE_URL, {"cache_size": "1M"}, "--cache-size: at least 64M"),
        (FILE_URL, {"memory_limit": "1M"}, "--memory-limit: at least 64M"),
        (FILE_URL, {"conflict": "mine"}, "none of ours-on-top, keep-both"),
        (FILE_URL, {"cache_dir": ""}, "--cache-dir needs a value"),
        (FILE_URL, {"fsync": "sometimes"}, "--fsync: 'sometimes' is none of bucket, local"),
        (FILE_URL, {"endpoint": "https://x"}, "--endpoint is for s3:// and b2://"),
        ("b2://photos", {}, "--region us-west-004"),
        ("s3://photos", {"endpoint": "s3.example.org"}, "https://HOST"),
        ("s3://photos", {"endpoint": "https://"}, "https://HOST"),
        ("s3://photos", {"endpoint": "https://h:port"}, "is not a URL"),
        ("s3://photos", {"endpoint": "https://h/path"}, "https://HOST"),
        ("s3://photos", {"endpoint": "https://id:key@h"}, "must not hold a key"),
        ("s3://photos", {"endpoint": "http://192.0.2.1:9000"}, "not encrypted"),
        ("s3://photos", {"endpoint": "http://localhost.example.org"}, "not encrypted"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(url: str, raw: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build_settings(url, "/mnt", raw)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost", "https://h:1"])
def test_plain_http_is_for_this_machine(endpoint: str) -> None:
    assert build_settings("s3://photos", "/mnt", {"endpoint": endpoint}).endpoint == endpoint


def test_plain_http_elsewhere_has_to_be_meant() -> None:
    raw = {"endpoint": "http://192.0.2.1:9000", "insecure_http": "yes"}
    assert build_settings("s3://photos", "/mnt", raw).insecure_http


def test_the_environment_gives_defaults() -> None:
    raw = raw_from_environment({"B2FS_CACHE_SIZE": "1G", "B2FS_READ_ONLY": "yes", "B2FS_UID": "", "HOME": "/root"})
    assert raw == {"cache_size": "1G", "read_only": "yes"}


def test_certificates_to_trust_are_an_option_or_what_the_aws_tools_are_told() -> None:
    told = {"AWS_CA_BUNDLE": "/aws.pem"}
    assert raw_from_environment(told) == {"ca_bundle": "/aws.pem"}
    assert raw_from_environment({**told, "B2FS_CA_BUNDLE": "/ours.pem"}) == {"ca_bundle": "/ours.pem"}
    settings = build_settings("s3://photos", "/mnt", {"endpoint": "https://host", "ca_bundle": "/ours.pem"})
    assert isinstance(settings.location, RemoteLocation)
    assert s3_config(settings, settings.location).ca_bundle == "/ours.pem"
    assert build_settings(FILE_URL, "/mnt", raw_from_environment(told)).ca_bundle == "/aws.pem"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("B2FS_CACHESIZE", "B2FS_CACHE_SIZE"),
        ("B2FS_BW_LIMIT", "B2FS_BWLIMIT"),
        ("B2FS_SYNC_ONCLOSE", "B2FS_SYNC_ON_CLOSE"),
        ("B2FS_METADATATTL", "B2FS_METADATA_TTL"),
    ],
)
def test_a_misspelt_variable_is_not_passed_over(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is no option of a mount; did you mean {meant}\\?$"):
        raw_from_environment({name: "1G"})


def test_other_variables_are_nobodys_business() -> None:
    names = (
        "B2FS_RUNTIME_DIR",
        "B2FS_URL",
        "B2FS_MOUNTPOINT",
        "B2FS_LONG",
        "B2FS_SEED",
        "B2FS_BACKUP_USER",
        "B2_CACHE_SIZE",
    )
    assert raw_from_environment(dict.fromkeys(names, "1")) == {}


def test_option_lists_split_at_bare_commas() -> None:
    assert split_options(r"ro,cache_dir=/a\,b\\c,,uid=7") == ["ro", r"cache_dir=/a,b\c", "uid=7"]


def test_fstab_options_become_settings_and_foreign_ones_are_dropped() -> None:
    raw = raw_from_options(["_netdev,ro,noauto,x-systemd.automount,user,cache-size=2G", "uid=7,cache_size=1G"])
    assert raw == {"read_only": "", "cache_size": "1G", "uid": "7"}
    assert build_settings(FILE_URL, "/mnt", raw).read_only


def test_an_unknown_mount_option_is_refused_unless_sloppy() -> None:
    with pytest.raises(ConfigError, match="-o compress: unknown mount option"):
        raw_from_options(["compress=zlib"])
    assert raw_from_options(["compress=zlib,ro"], sloppy=True) == {"read_only": ""}


@pytest.mark.parametrize("option", ["sync", "mand"])
def test_options_that_nobody_would_carry_out_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="unknown mount option"):
        raw_from_options([option])


def test_of_an_option_and_its_opposite_the_later_one_counts() -> None:
    raw = raw_from_options(["dev,suid,noexec", "nosuid,exec"])
    settings = build_settings(FILE_URL, "/mnt", raw)
    assert (settings.dev, settings.suid, settings.noexec) == (True, False, False)
    assert not build_settings(FILE_URL, "/mnt", raw_from_options(["defaults"])).dev


@pytest.mark.parametrize("option", ["dev", "suid"])
def test_devices_and_set_id_bits_are_roots_to_allow(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=f"--{option} is for root"):
        build_settings(FILE_URL, "/mnt", {option: "yes", "cache_dir": "/c"})


def test_roots_mounts_let_others_in_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert build_settings(FILE_URL, "/mnt", {}).allow_other
    for word in ("noallow_other", "no_allow_other", "no-allow-other", "allow_other=no"):
        assert not build_settings(FILE_URL, "/mnt", raw_from_options([word])).allow_other
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not build_settings(FILE_URL, "/mnt", {}).allow_other
    assert build_settings(FILE_URL, "/mnt", raw_from_options(["allow-other"])).allow_other


paths = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="/"), min_size=1).map(
    lambda name: os.path.normpath("/srv/" + name)
)
names = st.from_regex(r"[a-z][a-z0-9-]{5,20}", fullmatch=True)
flags = st.sampled_from(["yes", "no"])
raws = st.fixed_dictionaries(
    {},
    optional={
        "read_only": flags,
        "uid": st.integers(0, 2**32 - 2).map(str),
        "umask": st.integers(0, 0o777).map(lambda mask: f"{mask:o}"),
        "allow_other": flags,
        "cache_dir": paths,
        "cache_size": st.integers(64 << 20, 1 << 50).map(str),
        "region": names,
        "profile": names,
        "fsync": st.sampled_from(["bucket", "local"]),
        "metadata_ttl": st.integers(0, 10**6).map(lambda ms: f"{ms}ms"),
        "quota": st.sampled_from(["10G", "1500", "3M:100000"]),
        "bwlimit": st.sampled_from(["1M", "1M:10M", "0:64K", "off:20000", "1.5M:0"]),
        "random_reads": st.sampled_from(["auto", "exact", "whole"]),
        "log_file": paths,
        "log_level": st.sampled_from(["debug", "error"]),
    },
)


@given(raws, names, paths)
def test_settings_survive_the_cache_directory(raw: dict[str, str], bucket: str, mountpoint: str) -> None:
    settings = build_settings(f"s3://{bucket}", mountpoint, raw)
    texts = settings_as_text(settings)
    assert build_settings(texts.pop("url"), texts.pop("mountpoint"), texts) == settings


def test_every_option_is_a_field_and_has_help() -> None:
    settings = build_settings(FILE_URL, "/mnt", {})
    for option in OPTIONS:
        assert hasattr(settings, option.name)
        assert option.help.endswith(".")


def test_a_rate_is_for_both_directions_unless_there_are_two() -> None:
    def limit(text: str) -> tuple[int, int] | None:
        return build_settings(FILE_URL, "/mnt", {"bwlimit": text}).bwlimit

    assert limit("1M") == (1 << 20, 1 << 20)
    assert limit("1M:10M") == (1 << 20, 10 << 20)
    assert limit("off:64K") == (0, 64 << 10)
    assert limit("64K:0") == (64 << 10, 0)


@pytest.mark.parametrize("text", ["fast", "1M:", ":1M", "1M:2M:3M", "1K", "1M:100"])
def test_a_rate_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--bwlimit"):
        build_settings(FILE_URL, "/mnt", {"bwlimit": text})


def test_only_a_server_elsewhere_gets_uploads_in_batches() -> None:
    def batch(url: str) -> int:
        return vfs_config(build_settings(url, "/mnt", {}), Path("/cache")).writeback.busy_batch

    assert batch(FILE_URL) == 0
    assert batch("s3://photos") > 0


def test_what_reading_pieces_may_fetch() -> None:
    def reader(**raw: str) -> ReaderConfig:
        return vfs_config(build_settings(FILE_URL, "/mnt", {"cache_size": "8G", **raw}), Path("/cache")).reader

    far = Patience(pieces=8, wait_s=0.010)
    asked: dict[str, str]
    for asked in ({}, {"random_reads": "auto"}, {"bwlimit": "1M:0"}):
        assert (reader(**asked).complete_bytes, reader(**asked).complete_after) == (512 << 20, far)
    assert reader(bwlimit="1M").complete_bytes == 0, "who spares the line has other plans for it"
    rates: dict[str, str]
    for rates in ({}, {"bwlimit": "1M"}):
        assert reader(random_reads="exact", **rates).complete_bytes == 0
        whole = reader(random_reads="whole", **rates)
        assert (whole.complete_bytes, whole.complete_after) == (2 << 30, Patience())
    with pytest.raises(ConfigError, match="--random-reads"):
        reader(random_reads="some")


@pytest.mark.parametrize("text", ["16K", "100K", "1M", "3M", "20M"])
def test_a_line_that_is_held_back_is_read_in_small_ranges_and_waited_for(text: str) -> None:
    settings = build_settings(FILE_URL, "/mnt", {"bwlimit": text})
    assert settings.bwlimit is not None
    reader, rate = vfs_config(settings, Path("/cache")).reader, settings.bwlimit[1]
    assert reader.prefetch.range_bytes <= max(4 * rate, 1 << 20)
    assert reader.memory_bytes / rate < reader.timeout_s


@pytest.mark.parametrize("text", ["", "x", "10G:", "10G:x", ":5", "10G:5:5", "10G:-1"])
def test_a_quota_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--quota"):
        build_settings(FILE_URL, "/mnt", {"quota": text})
