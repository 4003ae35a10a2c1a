"""umount(8) returns while the daemon goes on uploading; whoever mounts again then need not wait for that."""

from __future__ import annotations

import os
import subprocess

from tests.e2e.programs import is_running, run_b2fs
from tests.e2e.sites import new_site
from tests.e2e.trees import file_contents
from tests.e2e.wire import Wire
from tests.faultproxy import WRITES, StallUpload


def test_a_mount_right_after_umount_goes_on_with_what_is_left(wire: Wire) -> None:
    with new_site(lambda _: wire.as_bucket()) as site:
        site.troubled = True  # the second mount's log tells of what is left
        root = site.mount()
        (root / "before").write_bytes(b"in the bucket")
        assert run_b2fs("sync", root).returncode == 0
        wire.proxy.harm(StallUpload(), WRITES, times=None)
        written = {f"{number}": os.urandom(5000) for number in range(20)}
        for name, body in written.items():
            (root / name).write_bytes(body)
        os.unlink(root / "before")
        earlier = site.pid
        subprocess.run(["umount", root], check=True)
        assert is_running(earlier)
        wire.proxy.heal()  # for new requests; those of the earlier daemon go on waiting
        root = site.mount()
        assert not is_running(earlier)
        assert "goes on with what is left" in site.log()
        assert file_contents(root) == written
        site.umount()
    assert wire.contents() == written
