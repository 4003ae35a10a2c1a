"""What S3Config accepts, and the sentences for what it does not."""

from __future__ import annotations

import pytest

from b2fs.errors import ConfigError
from b2fs.store.s3 import RetryPolicy, S3Config, b2_endpoint, check_credentials

APPLICATION_KEY_ID = "0041234567890ab0000000001"
MASTER_KEY_ID = "0123456789ab"


@pytest.mark.parametrize("endpoint", ["http://example.com", "http://10.0.0.1:9000", "http://127.0.0.1.example.com"])
def test_plain_http_to_another_host_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="not encrypted"):
        S3Config("bucket", endpoint).checked()
    assert not S3Config("bucket", endpoint, insecure_http=True).tls


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8333", "http://localhost", "http://[::1]:9000"])
def test_plain_http_on_loopback(endpoint: str) -> None:
    assert S3Config("bucket", endpoint).url == endpoint


@pytest.mark.parametrize(
    "endpoint", ["example.com", "ftp://example.com", "https://", "https://h/path", "https://u:p@h", "https://h:port"]
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        S3Config("bucket", endpoint).checked()


@pytest.mark.parametrize("bucket", ["", "a/b", "a b", "-a", "a?b"])
def test_what_is_no_bucket(bucket: str) -> None:
    with pytest.raises(ConfigError, match="not a bucket name"):
        S3Config(bucket).checked()


def test_backblaze_endpoint_follows_from_the_region() -> None:
    config = S3Config("bucket", region="us-west-004", backblaze=True)
    assert config.url == b2_endpoint("us-west-004") == "https://s3.us-west-004.backblazeb2.com"
    assert config.is_backblaze
    with pytest.raises(ConfigError, match="region"):
        S3Config("bucket", backblaze=True).checked()


def test_the_signing_region_of_a_backblaze_host() -> None:
    assert S3Config("bucket", "https://s3.eu-central-003.backblazeb2.com").signing_region == "eu-central-003"
    assert S3Config("bucket", "https://example.com").signing_region == "us-east-1"
    assert S3Config("bucket", "https://example.com", region="here").signing_region == "here"


def test_host_of_both_addressing_styles() -> None:
    assert S3Config("bucket", "https://h:9000").host_header == "h:9000"
    assert S3Config("bucket", "https://h:9000", addressing="virtual").host_header == "bucket.h:9000"


def test_identity_is_the_same_however_the_endpoint_is_written() -> None:
    assert S3Config("bucket", "https://h/").identity == S3Config("bucket", "https://h").identity == "https://h/bucket"


def test_the_master_key_is_refused_on_backblaze_only() -> None:
    backblaze = S3Config("bucket", "https://s3.us-west-004.backblazeb2.com")
    with pytest.raises(ConfigError, match="create an application key"):
        check_credentials(backblaze, MASTER_KEY_ID)
    check_credentials(backblaze, APPLICATION_KEY_ID)
    check_credentials(S3Config("bucket", "https://example.com"), MASTER_KEY_ID)


@pytest.mark.parametrize("text", ["key\r", "key\n", "two words", "schl\u00fcssel", "\ufeffkey", "zero\u200bwidth"])
def test_a_key_that_was_copied_wrongly_is_refused_and_not_repeated(text: str) -> None:
    for key_id, secret in ((text, "secret"), ("key", text)):
        with pytest.raises(ConfigError, match="see how it was copied") as caught:
            check_credentials(S3Config("bucket", "https://example.com"), key_id, secret)
        assert text not in str(caught.value)


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(ConfigError):
        S3Config("bucket", max_connections=0).checked()
    with pytest.raises(ConfigError):
        S3Config("bucket", memory_limit_bytes=1 << 20).checked()
    with pytest.raises(ConfigError):
        S3Config("bucket", stall_timeout_s=0).checked()
    with pytest.raises(ConfigError):
        RetryPolicy(attempts=0).checked()
