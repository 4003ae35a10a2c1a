"""X-Bz-Test-Mode: the faults that a client of B2 may ask for itself, to see how it bears them.

Backblaze's integration checklist names the modes and not how often they strike; the share is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from b2fs.server.faults import Faults
from b2fs.server.native.errors import NativeError

HEADER: Final = "x-bz-test-mode"
_SHARE: Final = 1 / 3
_UPLOADS: Final = frozenset(["b2_upload_file", "b2_upload_part"])
_DOWNLOADS: Final = frozenset(["b2_download_file_by_id", "b2_download_file_by_name"])


def strike(headers: Mapping[str, str], operation: str, faults: Faults) -> None:
    """Raise the fault that a request asks for, if it strikes this one.  Unknown modes do nothing, as on B2."""
    mode = _MODES.get(headers.get(HEADER, ""))
    if mode is not None:
        mode(operation, faults)


def _fail_some_uploads(operation: str, faults: Faults) -> None:
    if operation in _UPLOADS and faults.happens(_SHARE):
        raise NativeError(503, "service_unavailable", "no tomes available")


def _expire_some_tokens(operation: str, faults: Faults) -> None:
    ours = operation not in _UPLOADS and operation != "b2_authorize_account"
    if ours and faults.happens(_SHARE):
        raise NativeError(401, "expired_auth_token", "Authorization token has expired")


def _force_cap_exceeded(operation: str, _: Faults) -> None:
    if operation in _UPLOADS:
        raise NativeError(403, "storage_cap_exceeded", "Cannot upload files, storage cap exceeded.")
    if operation in _DOWNLOADS:
        raise NativeError(403, "download_cap_exceeded", "Cannot download file, download bandwidth cap exceeded.")


_MODES: Final[Mapping[str, Callable[[str, Faults], None]]] = {
    "fail_some_uploads": _fail_some_uploads,
    "expire_some_account_authorization_tokens": _expire_some_tokens,
    "force_cap_exceeded": _force_cap_exceeded,
}
