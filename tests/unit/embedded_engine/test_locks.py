"""Object Lock, as the engine keeps it."""

from __future__ import annotations

import pytest

from b2fs.errors import Locked
from b2fs.store.embedded.engine import Engine
from b2fs.store.embedded.errors import (
    InvalidLock,
)
from b2fs.store.embedded.rows import (
    BucketSpec,
    DefaultRetention,
    LockSpec,
    PartClaim,
    Retention,
    RetentionMode,
)
from tests.unit.embedded_engine.tools import DAY_MS, Clock

GOVERNANCE, COMPLIANCE = RetentionMode.GOVERNANCE, RetentionMode.COMPLIANCE


def until(clock: Clock, days: int, mode: RetentionMode = GOVERNANCE) -> Retention:
    return Retention(mode, clock.ms + days * DAY_MS)


def test_lock_needs_a_bucket_with_lock(engine: Engine, bucket: int, clock: Clock) -> None:
    with pytest.raises(InvalidLock):
        engine.put(bucket, "a", b"x", lock=LockSpec(until(clock, 1)))
    with pytest.raises(InvalidLock):
        engine.put(bucket, "a", b"x", lock=LockSpec(legal_hold=True))
    engine.put(bucket, "a", b"x")
    with pytest.raises(InvalidLock):
        engine.set_retention(bucket, "a", None, until(clock, 1))
    with pytest.raises(InvalidLock):
        engine.set_legal_hold(bucket, "a", None, True)


@pytest.mark.parametrize("mode", [GOVERNANCE, COMPLIANCE])
def test_retention_forbids_removal_until_it_ends(
    engine: Engine, locked_bucket: int, clock: Clock, mode: RetentionMode
) -> None:
    row = engine.put(locked_bucket, "a", b"x", lock=LockSpec(until(clock, 2, mode)))
    with pytest.raises(Locked):
        engine.delete_version(locked_bucket, "a", row.version_id)
    if mode is COMPLIANCE:
        with pytest.raises(Locked):
            engine.delete_version(locked_bucket, "a", row.version_id, bypass_governance=True)
        clock.ms += 2 * DAY_MS
        assert engine.delete_version(locked_bucket, "a", row.version_id).existed
    else:
        assert engine.delete_version(locked_bucket, "a", row.version_id, bypass_governance=True).existed


def test_a_locked_version_can_be_hidden(engine: Engine, locked_bucket: int, clock: Clock) -> None:
    row = engine.put(locked_bucket, "a", b"x", lock=LockSpec(until(clock, 2, COMPLIANCE)))
    engine.hide(locked_bucket, "a")
    assert engine.read(locked_bucket, "a", row.version_id)[1] == b"x"


def test_legal_hold(engine: Engine, locked_bucket: int) -> None:
    row = engine.put(locked_bucket, "a", b"x", lock=LockSpec(legal_hold=True))
    with pytest.raises(Locked):
        engine.delete_version(locked_bucket, "a", row.version_id, bypass_governance=True)
    engine.set_legal_hold(locked_bucket, "a", row.version_id, False)
    assert engine.delete_version(locked_bucket, "a", row.version_id).existed


def test_default_retention(engine: Engine, clock: Clock) -> None:
    default = DefaultRetention(GOVERNANCE, years=1)
    spec = BucketSpec("locked", lock_enabled=True, default_retention=default)
    bucket = engine.create_bucket(spec).id
    assert engine.put(bucket, "a", b"x").retention == until(clock, 365)
    own = until(clock, 3, COMPLIANCE)
    assert engine.put(bucket, "b", b"x", lock=LockSpec(own)).retention == own
    upload = engine.create_upload(bucket, "m")
    engine.put_part(bucket, "m", upload.upload_id, 1, b"x")
    clock.ms += 1000
    assert engine.complete_upload(bucket, "m", upload.upload_id, [PartClaim(1)]).retention == until(clock, 365)


def test_retention_may_be_tightened_and_not_loosened(engine: Engine, locked_bucket: int, clock: Clock) -> None:
    engine.put(locked_bucket, "a", b"x")
    engine.set_retention(locked_bucket, "a", None, until(clock, 5))
    engine.set_retention(locked_bucket, "a", None, until(clock, 6))
    with pytest.raises(Locked):
        engine.set_retention(locked_bucket, "a", None, until(clock, 4))
    with pytest.raises(Locked):
        engine.set_retention(locked_bucket, "a", None, None)
    engine.set_retention(locked_bucket, "a", None, until(clock, 4), bypass_governance=True)
    engine.set_retention(locked_bucket, "a", None, until(clock, 4, COMPLIANCE))
    with pytest.raises(Locked):
        engine.set_retention(locked_bucket, "a", None, until(clock, 9), bypass_governance=True)
    with pytest.raises(InvalidLock):
        engine.set_retention(locked_bucket, "a", None, until(clock, -1))
    assert engine.head(locked_bucket, "a").retention == until(clock, 4, COMPLIANCE)
