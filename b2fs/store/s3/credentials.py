"""Credentials of botocore's chain, turned into what the CRT signs with.

Plain keys are found without it (`nearby`).  botocore finds all others (container and instance roles, single sign-on)
and refreshes temporary ones, which may block on the network; that happens in a worker thread, before they expire.
Secrets stay in this module's objects: nothing here is logged or shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio
from awscrt.auth import (
    AwsCredentialsProvider,
    AwsSignatureType,
    AwsSignedBodyHeaderType,
    AwsSignedBodyValue,
    AwsSigningAlgorithm,
    AwsSigningConfig,
)

from b2fs.errors import BadCredentials, ConfigError
from b2fs.store.s3.config import S3Config, check_credentials
from b2fs.store.s3.nearby import Frozen, StaticKeys, find_nearby


class _Moment(Protocol):
    """As botocore's ReadOnlyCredentials; any of the texts may be missing."""

    @property
    def access_key(self) -> str | None: ...
    @property
    def secret_key(self) -> str | None: ...
    @property
    def token(self) -> str | None: ...


class Credentials(Protocol):
    """Keys that may change with time; botocore's, or StaticKeys."""

    def get_frozen_credentials(self) -> _Moment: ...


def find_credentials(config: S3Config) -> Credentials:
    """Return the credentials that botocore's chain finds.  Blocks.  Raises ConfigError, BadCredentials."""
    nearby = find_nearby(config.profile)
    if nearby is None:
        return _find_with_botocore(config)
    check_credentials(config, nearby.access_key)
    return nearby


def _find_with_botocore(config: S3Config) -> Credentials:
    import botocore.session  # takes longer than all else that a mount needs
    from botocore.exceptions import BotoCoreError

    try:
        found = botocore.session.Session(profile=config.profile).get_credentials()
    except BotoCoreError as error:
        raise ConfigError(f"cannot load credentials: {error}") from error
    if found is None:
        raise BadCredentials("no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile")
    check_credentials(config, found.access_key)
    return found


class Signer:
    """Makes signing configurations for the current credentials.

    One static provider is kept per set of credentials, so that signing never calls back into Python.
    """

    def __init__(self, config: S3Config, find: Callable[[S3Config], Credentials] = find_credentials) -> None:
        self._config = config
        self._find = find
        self._credentials: Credentials | None = None
        self._frozen: Frozen | None = None
        self._provider: AwsCredentialsProvider | None = None
        self._unsigned: AwsSigningConfig | None = None
        self._changing = trio.Lock()

    async def prepare(self) -> object:
        """Find credentials at first, renew temporary ones near their end; returns a mark of the present ones.

        Raises ConfigError, BadCredentials.  Checkpoint: only when there is something to do.
        """
        if self._frozen is None or self._stale():
            async with self._changing:
                if self._frozen is None or self._stale():
                    await self._load(again=self._credentials is None)
        return self._frozen

    async def renew(self, refused: object) -> bool:
        """Look for other credentials after the server refused those of this mark; False if there are none.

        The chain is gone through anew, so a key that the user has replaced in a file is found.
        """
        async with self._changing:
            if self._frozen == refused:
                await self._load(again=True)
            return self._frozen != refused

    def config(self, payload_hash: str | None) -> AwsSigningConfig:
        """The configuration for a request whose body has this SHA-256 in hex; None leaves the payload unsigned."""
        if payload_hash is None:
            return self._unsigned
        return self._make(payload_hash)

    def fresh_config(self, payload_hash: str | None) -> AwsSigningConfig:
        """Like `config`, for a signer that takes the date from the configuration instead of the clock."""
        return self._make(AwsSignedBodyValue.UNSIGNED_PAYLOAD if payload_hash is None else payload_hash)

    def _stale(self) -> bool:
        check = getattr(self._credentials, "refresh_needed", None)  # only refreshable credentials have it
        return bool(check is not None and check())

    async def _load(self, *, again: bool) -> None:
        frozen = await trio.to_thread.run_sync(self._freeze, again)
        if frozen != self._frozen:
            self._use(frozen)

    def _freeze(self, again: bool) -> Frozen:
        if again or self._credentials is None:
            self._credentials = self._find(self._config)
        if isinstance(self._credentials, StaticKeys):
            return self._credentials.get_frozen_credentials()
        from botocore.exceptions import BotoCoreError  # loaded already: these are botocore's

        try:
            frozen = self._credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise BadCredentials(f"cannot renew the credentials: {error}") from error
        return Frozen(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    def _use(self, frozen: Frozen) -> None:
        self._frozen = frozen
        self._provider = AwsCredentialsProvider.new_static(frozen.access_key, frozen.secret_key, frozen.token)
        self._unsigned = self._make(AwsSignedBodyValue.UNSIGNED_PAYLOAD)

    def _make(self, signed_body_value: str) -> AwsSigningConfig:
        return AwsSigningConfig(
            algorithm=AwsSigningAlgorithm.V4,
            signature_type=AwsSignatureType.HTTP_REQUEST_HEADERS,
            credentials_provider=self._provider,
            region=self._config.signing_region,
            service="s3",
            signed_body_value=signed_body_value,
            signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
            use_double_uri_encode=False,
            should_normalize_uri_path=False,
        )
