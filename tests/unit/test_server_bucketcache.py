"""Buckets without a query per request, and never staler than promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from b2fs.errors import NoSuchBucket
from b2fs.server.bucketcache import CACHE_S, BucketCache
from b2fs.store.embedded.engine import Engine, EngineConfig
from b2fs.store.embedded.rows import Acl, BucketChanges, BucketSpec


def test_own_changes_are_seen_at_once(tmp_path: Path) -> None:
    with Engine(EngineConfig(str(tmp_path), durable=False)) as engine:
        cache = BucketCache(engine)
        with pytest.raises(NoSuchBucket):
            cache.find("bucket")
        row = engine.create_bucket(BucketSpec("bucket"))
        assert cache.find("bucket") == row
        assert cache.find("bucket") is cache.find("bucket")
        engine.update_bucket(row.id, BucketChanges(acl=Acl.PUBLIC_READ))
        assert cache.find("bucket").acl is Acl.PUBLIC_READ
        engine.delete_bucket(row.id)
        with pytest.raises(NoSuchBucket):
            cache.find("bucket")


def test_others_changes_are_seen_after_a_while(tmp_path: Path) -> None:
    now_s = 1000.0
    config = EngineConfig(str(tmp_path), durable=False)
    with Engine(config) as engine, Engine(config) as other:
        row = engine.create_bucket(BucketSpec("bucket"))
        cache = BucketCache(engine, clock_s=lambda: now_s)
        assert cache.find("bucket").acl is Acl.PRIVATE
        other.update_bucket(row.id, BucketChanges(acl=Acl.PUBLIC_READ))
        now_s += CACHE_S
        assert cache.find("bucket").acl is Acl.PUBLIC_READ
