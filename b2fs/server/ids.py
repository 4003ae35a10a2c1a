"""Request IDs, as B2 shows them."""

from __future__ import annotations

import secrets


def request_ids() -> list[tuple[str, str]]:
    """The two headers that every answer carries."""
    return [("x-amz-request-id", secrets.token_hex(8)), ("x-amz-id-2", f"aMbh{secrets.token_hex(16)}")]
