"""Credentials of botocore's chain, as they are at a moment.

Plain keys are found without it (`nearby`).  botocore finds all others (container and instance roles, single sign-on)
and refreshes temporary ones, which may block on the network; that happens in a worker thread, before they expire.
Secrets stay in this module's objects: nothing here is logged or shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

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
    check_credentials(config, nearby.access_key, nearby.secret_key)
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
    check_credentials(config, found.access_key, found.secret_key)
    return found


class Signer:
    """Has the current keys to sign with."""

    def __init__(self, config: S3Config, find: Callable[[S3Config], Credentials] = find_credentials) -> None:
        self._config = config
        self._find = find
        self._credentials: Credentials | None = None
        self._frozen: Frozen | None = None
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

    @property
    def keys(self) -> Frozen:
        """The present keys; `prepare` comes first."""
        assert self._frozen is not None
        return self._frozen

    def _stale(self) -> bool:
        check = getattr(self._credentials, "refresh_needed", None)  # only refreshable credentials have it
        return bool(check is not None and check())

    async def _load(self, *, again: bool) -> None:
        self._frozen = await trio.to_thread.run_sync(self._freeze, again)

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
