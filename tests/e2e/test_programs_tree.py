"""Trees on a mount: copied, synchronised, archived, and the same on a machine that has never seen them."""

from __future__ import annotations

import os
from pathlib import Path

from b2fs.core.keys import component_of
from tests.e2e.sites import Site, need, run
from tests.e2e.trees import described, file_contents, special_tree


def rsync(*words: str | Path) -> str:
    """What rsync says that it does, or with -n would do."""
    need("rsync")
    return run("rsync", "--itemize-changes", *words)


def key_of(path: str) -> str:
    return "/".join(component_of(os.fsencode(name)) for name in path.split("/"))


def test_a_copied_tree_is_the_same_on_a_machine_that_has_never_seen_it(site: Site, python_tree: Path) -> None:
    run("cp", "-a", python_tree, site.mount() / "tree")
    root = site.remount()
    assert rsync("-anc", "--delete", f"{python_tree}/", f"{root}/tree/") == ""
    site.umount()
    found = site.bucket.contents()
    for name, content in file_contents(python_tree).items():
        assert found[key_of(f"tree/{name}")] == content, name


def test_links_modes_owners_times_and_devices_survive(site: Site, tmp_path: Path) -> None:
    tree = special_tree(tmp_path / "tree")
    run("cp", "-a", tree, site.mount() / "tree")
    assert described(site.root / "tree") == described(tree)
    root = site.remount()
    assert described(root / "tree") == described(tree)
    assert file_contents(root / "tree") == file_contents(tree)
    linked = root / "tree" / "special" / "hard link 1"
    assert os.getxattr(linked, "user.colour") == "grün".encode()
    assert os.getxattr(root / "tree" / "special", "user.colour") == b"blue"


def test_rsync_finds_nothing_to_do_the_second_time(seaweedfs_site: Site, tmp_path: Path) -> None:
    tree = special_tree(tmp_path / "tree")
    everything = ("-aHAX", "--numeric-ids", "--delete", f"{tree}/", f"{seaweedfs_site.mount()}/tree/")
    rsync(*everything)
    assert rsync(*everything) == ""
    seaweedfs_site.remount()
    assert rsync(*everything) == ""
    assert rsync("-c", *everything) == ""


def test_tar_extracts_what_it_then_finds_unchanged(embedded_site: Site, tmp_path: Path) -> None:
    tree = special_tree(tmp_path / "tree")
    archive = tmp_path / "tree.tar"
    # A socket is not archived.
    (tree / "special" / "socket").unlink()
    run("tar", "--create", f"--file={archive}", "--xattrs", f"--directory={tree}", ".")
    compare = ("tar", "--diff", f"--file={archive}", "--xattrs", f"--directory={embedded_site.root}")
    embedded_site.mount()
    run(
        "tar",
        "--extract",
        f"--file={archive}",
        "--xattrs",
        "--preserve-permissions",
        f"--directory={embedded_site.root}",
    )
    assert run(*compare) == ""
    embedded_site.remount()
    assert run(*compare) == ""
    # And back again, from the mount.
    again = tmp_path / "again.tar"
    run("tar", "--create", f"--file={again}", "--xattrs", f"--directory={embedded_site.root}", ".")
    assert run("tar", "--diff", f"--file={again}", "--xattrs", f"--directory={tree}") == ""
