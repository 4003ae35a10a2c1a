"""Object Lock of versions: retention and legal hold."""

from __future__ import annotations

import time

from b2fs.server.ops.call import Call, Reply
from b2fs.server.wire.errors import S3Error
from b2fs.store.embedded.rows import Retention, RetentionMode, VersionRow


def _require_lock(call: Call) -> None:
    if not call.bucket.lock_enabled:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")


def _row(call: Call) -> VersionRow:
    return call.engine.head(call.bucket.id, call.name, call.version_id)


def get_retention(call: Call) -> Reply:
    """Mode and date."""
    _require_lock(call)
    retention = _row(call).retention
    if retention is None:
        raise S3Error("NoSuchObjectLockConfiguration")
    return Reply({"Retention": {"Mode": retention.mode.value, "RetainUntilDate": retention.until_ms}})


def put_retention(call: Call) -> Reply:
    """Set, prolong, or (governance, with the capability) shorten or remove."""
    _require_lock(call)
    wanted = call.params.get("Retention")
    if wanted is None:
        raise S3Error("MalformedXML")
    mode, until = wanted.get("Mode"), wanted.get("RetainUntilDate")
    if (mode is None) != (until is None):
        raise S3Error("MalformedXML")
    bypass = bool(call.params.get("BypassGovernanceRetention"))
    if bypass:
        call.require("bypassGovernance")
    retention = Retention(RetentionMode(mode), until) if mode is not None and until is not None else None
    if retention is not None and retention.until_ms <= time.time() * 1000:
        raise S3Error("InvalidArgument", "The retain until date must be in the future!")
    call.engine.set_retention(call.bucket.id, call.name, call.version_id, retention, bypass_governance=bypass)
    return Reply()


def get_legal_hold(call: Call) -> Reply:
    """ON or OFF."""
    _require_lock(call)
    hold = _row(call).legal_hold
    if hold is None:
        raise S3Error("NoSuchObjectLockConfiguration")
    return Reply({"LegalHold": {"Status": "ON" if hold else "OFF"}})


def put_legal_hold(call: Call) -> Reply:
    """Switch it."""
    _require_lock(call)
    status = (call.params.get("LegalHold") or {}).get("Status")
    if status is None:
        raise S3Error("MalformedXML")
    call.engine.set_legal_hold(call.bucket.id, call.name, call.version_id, status == "ON")
    return Reply()
