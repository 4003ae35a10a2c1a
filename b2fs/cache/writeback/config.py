"""Settings of write-back."""

from __future__ import annotations

from typing import NamedTuple

from b2fs.cache.writeback.conflicts import ConflictPolicy

MIB = 1 << 20


class WriteBackConfig(NamedTuple):
    """Delays in seconds, sizes in bytes.

    quiet_s: a closed file is uploaded when it has not changed for this long, so that saves within a second become one
    version and a temporary file that is renamed is sent once, under its last name.
    bulk_quiet_s, bulk_threshold: with this many keys waiting, throughput counts for more than the saved versions.
    change_quiet_s, change_rest_s: a closed file of which only a part has changed, so that it is made anew in the bucket
    from the rest there, which takes long, waits less; but not if it was stored from here so recently.
    open_quiet_s: a file that is still open for writing waits longer.
    open_max_s: no file waits longer, however often it changes.
    spacing_s: between two version-creating calls on one key (B2's rule for successive calls).
    busy_batch: while programs are at work so many uploads begin together, one such batch after the other; 0 where the
    store's work is done by this process, too.
    put_max_bytes: larger files are sent in parts.
    stream_bytes: files that grow beyond this are uploaded while they are being written.
    """

    quiet_s: float = 1.0
    bulk_quiet_s: float = 0.05
    bulk_threshold: int = 32
    remove_quiet_s: float = 0.2
    dir_quiet_s: float = 2.0
    change_quiet_s: float = 0.1
    change_rest_s: float = 10.0
    open_quiet_s: float = 5.0
    open_max_s: float = 30.0
    spacing_s: float = 1.0
    requests: int = 48
    busy_batch: int = 0
    put_max_bytes: int = 16 * MIB
    stream_bytes: int = 64 * MIB
    memory_bytes: int = 96 * MIB
    parts_in_flight: int = 4
    #: A fsync that has not got its data into the bucket after this long fails with ETIMEDOUT.
    durable_timeout_s: float = 300.0
    retry_min_s: float = 1.0
    retry_max_s: float = 60.0
    #: How often what the server refused for good is tried again (a cap may have been raised).
    refused_retry_s: float = 30.0
    #: Own versions that were superseded within this time are removed, later ones are history to keep.
    supersede_s: float = 60.0
    conflict: ConflictPolicy = ConflictPolicy.OURS_ON_TOP
    #: A look for what others made under new names follows so long after the last of a burst, and another one not sooner
    #: than so long after it.
    look_quiet_s: float = 2.0
    look_rest_s: float = 60.0
    #: What dirty files may need on the disk: near it, what the bucket has is dropped here and writers are slowed.
    dirty_bytes: int = 8 << 30
    #: A write that finds no room fails with ENOSPC when nothing has left the disk for so long.
    no_room_s: float = 30.0
