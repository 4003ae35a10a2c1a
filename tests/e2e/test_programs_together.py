"""Several programs at work on one mount at the same time, without a pause, and now and then kill -9 of the daemon.

Whatever they do they do on a local directory as well.  Afterwards both are the same, but for what a call was about that
had not returned when the daemon was killed.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.e2e.sites import LONG, Site

SEED = int(os.environ.get("B2FS_SEED", "2026"))
KILLS = 20 if LONG else 2
#: Of each program, between two kills.
STEPS = 600 if LONG else 100
#: What a call on a mount says whose daemon has gone.
_GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.EIO}
#: Trees that a program leaves standing, and files.
_TREES, _FILES = 6, 200


class Halt(Exception):
    """The daemon was killed."""


class Team:
    """The programs, and the moment of the next kill: when they have done so many steps together."""

    def __init__(self, mount: Path, mirror: Path, seed: int) -> None:
        self.roots = mount, mirror
        self.killed = threading.Event()
        self.errors: list[BaseException] = []
        self.programs: list[Program] = [
            *(Files(self, f"files{number}", seed + number) for number in range(2)),
            *(Trees(self, f"trees{number}", seed + 10 + number) for number in range(3)),
        ]
        for root in self.roots:
            for program in self.programs:
                (root / program.top).mkdir()
        self._left = 0
        self._due = threading.Event()
        self._lock = threading.Lock()

    def work(self, until: int | None, site: Site) -> None:
        """Let all work; kill the daemon when they have done `until` steps, None: never."""
        self.killed.clear()
        self._due.clear()
        self._left = until if until is not None else -1
        threads = [threading.Thread(target=program.run) for program in self.programs]
        for thread in threads:
            thread.start()
        if until is not None:
            assert self._due.wait(300)
            self.killed.set()
            site.kill(let_end=lambda: _join(threads))
        _join(threads)
        assert not self.errors, self.errors

    def done(self) -> None:
        """A program has done a step."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._due.set()

    def settle(self) -> None:
        """What was in doubt goes, on both sides."""
        for program in self.programs:
            for root in self.roots:
                for name in program.doubtful:
                    if (root / name).is_dir():
                        shutil.rmtree(root / name)
                    elif (root / name).exists():
                        (root / name).unlink()
            program.doubtful = []
            program.look()

    def doubtful(self) -> set[str]:
        return {name for program in self.programs for name in program.doubtful}


class Program(ABC):
    """Works in a directory of its own, `top`."""

    def __init__(self, team: Team, top: str, seed: int) -> None:
        self.team = team
        self.top = top
        self.rnd = random.Random(seed)
        #: What the call is about that has not returned.
        self.doubtful: list[str] = []
        self.names: list[str] = []
        self.number = 0

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                if self.team.killed.is_set():
                    return
                self.step()
                self.team.done()
        except Halt:
            pass
        except BaseException as error:
            self.team.errors.append(error)
            raise
        finally:
            self.team.done()

    @abstractmethod
    def step(self) -> None:
        """Some calls that belong together."""

    def look(self) -> None:
        """Find out what there is."""
        self.names = sorted(f"{self.top}/{name}" for name in os.listdir(self.team.roots[1] / self.top))

    def new(self) -> str:
        self.number += 1
        return f"{self.top}/{self.number}"

    def both(self, doubtful: Iterable[str], do: Callable[[Path], object]) -> None:
        """Do it on the mount and then on the mirror."""
        mount, mirror = self.team.roots
        self.doubtful = list(doubtful)
        try:
            do(mount)
        except OSError as error:
            if self.team.killed.is_set() and error.errno in _GONE:
                raise Halt from error
            raise
        do(mirror)
        self.doubtful = []


class Files(Program):
    """Makes, changes, renames, links and removes small files in one directory."""

    def step(self) -> None:
        names, kind = self.names, self.rnd.random()
        if kind < 0.5 or len(names) < 5:
            self._make()
        elif kind < 0.65:
            self._unlink(names.pop(self.rnd.randrange(len(names))))
        elif kind < 0.8:
            old, new = self.rnd.sample(names, 2)
            if self.rnd.random() < 0.6:
                new = self.new()
                names.append(new)
            names.remove(old)
            self.both([old, new], lambda root: (root / old).rename(root / new))
        elif kind < 0.85:
            old, new = self.rnd.choice(names), self.new()
            names.append(new)
            self.both([old, new], lambda root: (root / new).hardlink_to(root / old))
        elif kind < 0.95:
            name, more = self.rnd.choice(names), self.rnd.randbytes(100)
            self.both([name], lambda root: _append(root / name, more))
        else:
            name, mode = self.rnd.choice(names), self.rnd.choice((0o600, 0o644, 0o755))
            self.both([name], lambda root: (root / name).chmod(mode))
        if len(names) > _FILES:
            for name in names[: _FILES // 2]:
                self._unlink(name)
            del names[: _FILES // 2]

    def _unlink(self, name: str) -> None:
        self.both([name], lambda root: (root / name).unlink())

    def _make(self) -> None:
        name, content = self.new(), self.rnd.randbytes(self.rnd.choice((10, 4096, 30_000)))
        self.both([name], lambda root: (root / name).write_bytes(content))
        self.names.append(name)


class Trees(Program):
    """Makes small trees, moves them to where they stay for a while, and removes them."""

    def step(self) -> None:
        made = self.new()
        kept = made + "-kept"
        self.both([made], lambda root: _make_tree(root / made))
        self.names.append(kept)
        self.both([made, kept], lambda root: (root / made).rename(root / kept))
        if len(self.names) > _TREES:
            old = self.names.pop(0)
            self.both([old], lambda root: shutil.rmtree(root / old))


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()


def _append(path: Path, more: bytes) -> None:
    with path.open("ab") as file:
        file.write(more)


def _make_tree(top: Path) -> None:
    (top / "b").mkdir(parents=True)
    for number in range(10):
        (top / "b" / str(number)).write_bytes(b"%d" % number * 100)


def tree_of(root: Path, doubtful: set[str]) -> dict[str, tuple[str, bytes]]:
    """Mode and content of everything by its path, but for what is in doubt."""
    found: dict[str, tuple[str, bytes]] = {}
    for directory, directories, files in os.walk(root):
        place = Path(directory)
        directories[:] = [name for name in directories if str((place / name).relative_to(root)) not in doubtful]
        for path in (place / name for name in (*directories, *files)):
            name = str(path.relative_to(root))
            if name not in doubtful and name != ".b2fs":
                found[name] = stat.filemode(path.lstat().st_mode), path.read_bytes() if path.is_file() else b""
    return found


@pytest.mark.timeout(3600 if LONG else 240)
def test_programs_that_never_pause_and_kills(site: Site) -> None:
    site.troubled = True  # it is killed
    rnd = random.Random(SEED)
    mount, mirror = site.mount(), site.directory / "mirror"
    mirror.mkdir()
    team = Team(mount, mirror, SEED)
    everything = STEPS * len(team.programs)
    for _ in range(KILLS):
        team.work(rnd.randrange(everything // 10, everything // 2), site)
        site.mount()
        doubtful = team.doubtful()
        assert tree_of(mount, doubtful) == tree_of(mirror, doubtful)
        team.settle()
    team.work(None, site)
    assert tree_of(mount, set()) == tree_of(mirror, set())
    site.remount(cold=True)
    assert tree_of(mount, set()) == tree_of(mirror, set())
