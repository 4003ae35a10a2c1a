"""How the parts of a filesystem core are put together."""

from __future__ import annotations

import os
import stat

from b2fs.cache.attrindex import AttributeIndex, AttrIndexConfig
from b2fs.cache.blocks import BlockCache, BlockCacheConfig
from b2fs.cache.content import DirtyFiles
from b2fs.cache.inode import Inode
from b2fs.cache.ledger import Ledger
from b2fs.cache.localsync import LocalSync
from b2fs.cache.longkeys import LongKeys
from b2fs.cache.reader import Reader
from b2fs.cache.remote import RemoteConfig, RemoteView
from b2fs.cache.writeback.engine import Engine
from b2fs.cache.writeback.room import Room
from b2fs.cache.writeback.transfer import Transfer
from b2fs.core.nodes import InodeId
from b2fs.store.protocol import ObjectStore
from b2fs.vfs.api import ROOT, KernelNotifier
from b2fs.vfs.config import VfsConfig
from b2fs.vfs.core import Core
from b2fs.vfs.usage import Usage


def build_core(bucket: ObjectStore, config: VfsConfig, notifier: KernelNotifier) -> Core:
    """Make the parts; nothing runs yet."""
    store = LongKeys(bucket, config.prefix, config.ttl_s)
    ledger = Ledger(os.path.join(config.cache_dir, "ledger.db"))
    files = DirtyFiles(os.path.join(config.cache_dir, "dirty"), before_removal=ledger.commit)
    blocks = BlockCache(BlockCacheConfig(os.path.join(config.cache_dir, "blocks"), config.cache_size_bytes))
    reader = Reader(store, blocks, config.reader)
    remote = RemoteView(store, RemoteConfig(ttl_s=config.ttl_s, reserved=f"{config.prefix}.b2fs/"))
    transfer = Transfer(store, ledger, reader, config.writeback, f"{config.prefix}.b2fs/", remote.links)
    engine = Engine(store, ledger, LocalSync(ledger, files), remote, transfer, config.writeback)
    inodes: dict[InodeId, Inode] = {}
    room = Room(files, ledger, transfer, engine, config.writeback, inodes, blocks.yield_disk)
    root = Inode(ROOT, stat.S_IFDIR | config.defaults.dir_mode)
    root.uid, root.gid = config.defaults.uid, config.defaults.gid
    root.prefix_cache = config.prefix
    root.holds = 1
    usage = Usage(store, engine, config.prefix, config.quota, config.statfs_bytes)
    parts = (store, ledger, files, remote, transfer, engine, room, reader, blocks, notifier)
    core = Core(config, *parts, root, usage, inodes)
    inodes[ROOT] = root
    if config.attr_index:
        index = AttrIndexConfig(config.prefix, f"{config.prefix}.b2fs/attrs/", config.ttl_s, not config.read_only)
        core.index = remote.attributes = AttributeIndex(store, remote.known, index)
    if config.started_ns is not None:
        core.started_ns = config.started_ns
    root.atime_ns = root.mtime_ns = root.ctime_ns = core.started_ns
    return core
