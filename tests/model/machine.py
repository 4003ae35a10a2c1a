"""Random sequences of operations on a filesystem and on the reference model, which must agree at every step.

To hold another implementation against the model, give `machine_for` a function that opens it: everything else follows.
Between operations it may crash and come back, be mounted anew, and see other clients change its bucket.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from b2fs.vfs.api import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.mounting import FILESYSTEMS, NoKernel, Place
from tests.vfs.direct import hosted
from tests.vfs.driver import ALICE, APPEND, CREAT, EXCL, RW, TRUNC, Driver, Fd, R, Stat, W

#: Times that the rules set lie before this, times of real changes behind it, in nanoseconds.
_SET_TIMES_END_NS = 1_500_000_000 * 10**9
MAX_HANDLES = 6
MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Real:
    """The implementation under test, and what can be done to it beside calling it.

    The hooks return the driver to go on with, or are None where they make no sense.  A crash comes when every call
    so far has returned; nothing of them may be lost.  Foreign changes are made to the bucket by another client, the
    path counts from the root of the filesystem, and must be visible when the hook returns; the new file then has
    foreign_mode and belongs to root.
    """

    driver: Driver
    #: Where everything happens; names a new directory for each example where examples share a filesystem.
    directory: str = "example"
    crash_and_remount: Callable[[], Driver] | None = None
    clean_remount: Callable[[], Driver] | None = None
    foreign_put: Callable[[str, bytes], None] | None = None
    foreign_delete: Callable[[str], None] | None = None
    foreign_mode: int = 0o644


MakeReal = Callable[[], AbstractContextManager[Real]]
Outcome = object
Pick = str | int

names = st.sampled_from(["a", "b", "c"])
#: A path, or a number that stands for one that was made before: without these most calls would find nothing.
paths = st.one_of(st.lists(names, min_size=1, max_size=3).map("/".join), st.integers(0, 100), st.integers(0, 100))
contents = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, size: (seed * size)[:size], st.binary(min_size=1, max_size=7), st.integers(1, 20_000)),
)
offsets = st.one_of(st.integers(0, 50), st.integers(0, 30_000))
users = st.sampled_from([0, 0, ALICE])
modes = st.sampled_from([0o777, 0o755, 0o644, 0o600, 0o000, 0o1777, 0o2775, 0o4755, 0o7777])
flags = st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
xattr_names = st.sampled_from(["user.a", "user.b", "trusted.c"])
handles = st.integers(0, MAX_HANDLES - 1)
open_flags = st.sampled_from([R, W, RW, RW | CREAT, RW | CREAT | EXCL, RW | TRUNC, W | CREAT | TRUNC, W | APPEND])
times = st.integers(0, 1_400_000_000 * 10**9)


class ModelMachine(RuleBasedStateMachine):
    """The rules; `make_real` comes with the subclass."""

    make_real: MakeReal

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.real = self._stack.enter_context(type(self).make_real())
        place = Place(state=Path(os.devnull), notifier=NoKernel(), kernel_checks=False)
        self.model: Driver = self._stack.enter_context(hosted(lambda: FILESYSTEMS["memfs"](place)))
        self.driver = self.real.driver
        self._handles: list[tuple[Fd, Fd]] = []
        self._made: list[str] = []
        #: The files that handles of the model may write to.
        self._writing: dict[Fd, int] = {}
        self._foreign = 0
        for driver in (self.driver, self.model):
            driver.enter(".")
            with driver.umask(0):
                driver.mkdir(self.real.directory, 0o777)
            driver.enter(self.real.directory)

    def teardown(self) -> None:
        with self._stack:
            try:
                self._compare_trees()
            finally:
                self._close_all()

    # -- how a step is made and judged

    def both(self, call: Callable[[Driver], Outcome]) -> Outcome:
        """Make a call on both; the outcomes, results or errnos, must be the same."""
        expected, found = _outcome(call, self.model), _outcome(call, self.driver)
        assert found == expected, f"got {found!r}, the model says {expected!r}"
        return expected

    def as_user(self, uid: int, call: Callable[[Driver], Outcome]) -> Outcome:
        def run(driver: Driver) -> Outcome:
            with driver.user(uid):
                return call(driver)

        return self.both(run)

    def path(self, pick: Pick) -> str:
        if isinstance(pick, str):
            return pick
        return self._made[pick % len(self._made)] if self._made else "a"

    def making(self, pick: Pick, user: int, call: Callable[[Driver, str], Outcome]) -> None:
        """A call that makes the name, by a user."""
        path = self.path(pick)
        if not isinstance(self.as_user(user, lambda driver: call(driver, path)), str):
            self._made.append(path)

    def on_handle(self, index: int, call: Callable[[Driver, Fd], Outcome]) -> None:
        if not self._handles:
            return
        real, model = self._handles[index % len(self._handles)]
        self.both(lambda driver: call(driver, model if driver is self.model else real))

    def _compare_trees(self) -> None:
        expected, found = _tree(self.model), _tree(self.driver)
        differing = {path for path in expected | found if expected.get(path) != found.get(path)}
        assert not differing, {path: (found.get(path), "the model says", expected.get(path)) for path in differing}
        self._compare_links({path: self.model.lstat(path).ino for path in expected})

    def _compare_links(self, inos: dict[str, int]) -> None:
        """Names are links to one file in both or in neither."""
        real = {path: self.driver.lstat(path).ino for path in inos}
        assert len(set(zip(inos.values(), real.values(), strict=True))) == len(set(inos.values()))
        assert len(set(real.values())) == len(set(inos.values()))

    def _close_all(self) -> None:
        for real, model in self._handles:
            self.driver.close(real)
            self.model.close(model)
        self._handles.clear()

    @invariant()
    def the_top_agrees(self) -> None:
        self.both(lambda driver: frozenset(driver.names()))

    # -- names

    @rule(pick=paths, mode=modes, user=users)
    def mkdir(self, pick: Pick, mode: int, user: int) -> None:
        self.making(pick, user, lambda driver, path: driver.mkdir(path, mode))

    @rule(pick=paths, name=names)
    def mkdir_below(self, pick: Pick, name: str) -> None:
        if self.path(pick).count("/") < MAX_DEPTH:
            self.making(f"{self.path(pick)}/{name}", 0, lambda driver, path: driver.mkdir(path, 0o777))

    @rule(pick=paths, user=users)
    def rmdir(self, pick: Pick, user: int) -> None:
        self.as_user(user, lambda driver: driver.rmdir(self.path(pick)))

    @rule(pick=paths, user=users)
    def unlink(self, pick: Pick, user: int) -> None:
        self.as_user(user, lambda driver: driver.unlink(self.path(pick)))

    @rule(pick=paths, to=paths, how=flags, user=users)
    def rename(self, pick: Pick, to: Pick, how: int, user: int) -> None:
        source = self.path(pick)
        self.making(to, user, lambda driver, path: driver.rename(source, path, how))

    # Root alone: what others may link is a setting of the kernel (protected_hardlinks).
    @rule(pick=paths, to=paths)
    def link(self, pick: Pick, to: Pick) -> None:
        source = self.path(pick)
        self.making(to, 0, lambda driver, path: driver.link(source, path))

    @rule(pick=paths, to=paths, user=users)
    def symlink(self, pick: Pick, to: Pick, user: int) -> None:
        target = self.path(to)
        self.making(pick, user, lambda driver, path: driver.symlink(target, path))

    @rule(pick=paths)
    def mkfifo(self, pick: Pick) -> None:
        self.making(pick, 0, lambda driver, path: driver.mknod(path, stat.S_IFIFO | 0o640))

    @rule(pick=paths, user=users)
    def list_names(self, pick: Pick, user: int) -> None:
        self.as_user(user, lambda driver: frozenset(driver.names(self.path(pick))))

    # -- attributes

    @rule(pick=paths, user=users)
    def look(self, pick: Pick, user: int) -> None:
        self.as_user(user, lambda driver: _visible(driver.stat(self.path(pick))))

    @rule(pick=paths, mode=modes, user=users)
    def chmod(self, pick: Pick, mode: int, user: int) -> None:
        self.as_user(user, lambda driver: driver.chmod(self.path(pick), mode))

    @rule(pick=paths, uid=st.sampled_from([-1, 0, ALICE]), gid=st.sampled_from([-1, 0, ALICE]), user=users)
    def lchown(self, pick: Pick, uid: int, gid: int, user: int) -> None:
        self.as_user(user, lambda driver: driver.lchown(self.path(pick), uid, gid))

    @rule(pick=paths, atime=times, mtime=times, user=users)
    def utime(self, pick: Pick, atime: int, mtime: int, user: int) -> None:
        self.as_user(user, lambda driver: driver.utime(self.path(pick), (atime, mtime)))

    @rule(pick=paths, name=xattr_names, value=st.binary(max_size=20), how=st.sampled_from([0, 0, 1, 2]), user=users)
    def setxattr(self, pick: Pick, name: str, value: bytes, how: int, user: int) -> None:
        self.as_user(user, lambda driver: driver.setxattr(self.path(pick), name, value, how))

    @rule(pick=paths, name=xattr_names, user=users)
    def removexattr(self, pick: Pick, name: str, user: int) -> None:
        self.as_user(user, lambda driver: driver.removexattr(self.path(pick), name))

    # -- content

    @rule(pick=paths, content=contents)
    def replace_content(self, pick: Pick, content: bytes) -> None:
        self.making(pick, 0, lambda driver, path: _put(driver, path, content))

    @rule(pick=paths, size=offsets, user=users)
    def truncate(self, pick: Pick, size: int, user: int) -> None:
        self.as_user(user, lambda driver: driver.truncate(self.path(pick), size))

    @rule(pick=paths, user=users)
    def read_all(self, pick: Pick, user: int) -> None:
        self.as_user(user, lambda driver: _get(driver, self.path(pick)))

    @rule(pick=paths, how=open_flags, user=users)
    def open(self, pick: Pick, how: int, user: int) -> None:
        if len(self._handles) == MAX_HANDLES:
            return
        path = self.path(pick)
        opened: list[Fd] = []

        def run(driver: Driver) -> Outcome:
            with driver.umask(0o027):
                opened.append(_open_regular(driver, path, how))
            return "opened"

        if self.as_user(user, run) == "opened":
            model, real = opened
            self._handles.append((real, model))
            writes = how & os.O_ACCMODE != os.O_RDONLY
            self._writing[model] = self.model.fstat(model).ino if writes else 0

    @rule(index=handles)
    def close(self, index: int) -> None:
        if self._handles:
            real, model = self._handles.pop(index % len(self._handles))
            self.driver.close(real)
            self.model.close(model)

    @rule(index=handles, offset=offsets, content=contents)
    def write_handle(self, index: int, offset: int, content: bytes) -> None:
        self.on_handle(index, lambda driver, fd: driver.pwrite(fd, content, offset))

    @rule(index=handles, offset=offsets, length=st.integers(0, 30_000))
    def read_handle(self, index: int, offset: int, length: int) -> None:
        self.on_handle(index, lambda driver, fd: driver.pread(fd, length, offset))

    @rule(index=handles, size=offsets)
    def truncate_handle(self, index: int, size: int) -> None:
        self.on_handle(index, lambda driver, fd: driver.ftruncate(fd, size))

    @rule(index=handles)
    def look_handle(self, index: int) -> None:
        self.on_handle(index, lambda driver, fd: _visible(driver.fstat(fd)))

    @rule(index=handles)
    def fsync_handle(self, index: int) -> None:
        self.on_handle(index, lambda driver, fd: driver.fsync(fd))

    # -- what happens to a filesystem

    @rule()
    def compare_everything(self) -> None:
        self._compare_trees()

    @precondition(lambda self: self.real.crash_and_remount is not None)
    @rule()
    def crash_and_remount(self) -> None:
        assert self.real.crash_and_remount is not None
        for _real, model in self._handles:
            self.model.close(model)
        self._handles.clear()
        self._go_on_with(self.real.crash_and_remount())

    @precondition(lambda self: self.real.clean_remount is not None)
    @rule()
    def clean_remount(self) -> None:
        assert self.real.clean_remount is not None
        self._close_all()
        self._go_on_with(self.real.clean_remount())

    def _go_on_with(self, driver: Driver) -> None:
        self.driver = driver
        driver.enter(self.real.directory)
        self._compare_trees()

    @precondition(lambda self: self.real.foreign_put is not None)
    @rule(pick=paths, content=contents)
    def foreign_put(self, pick: Pick, content: bytes) -> None:
        assert self.real.foreign_put is not None
        path = self.path(pick)
        if not _is_file_or_free(self.model, path):
            return
        self._close_writers(path)
        # Never what was there before: a bucket without attributes does not tell equal contents of one second apart.
        self._foreign += 1
        content = b"%d by another client: " % self._foreign + content
        self.real.foreign_put(f"{self.real.directory}/{path}", content)
        with self._unseen_by_directory(path):
            if self.model.exists(path):
                self.model.unlink(path)
            _put(self.model, path, content)
            self.model.chmod(path, self.real.foreign_mode)
        self._made.append(path)
        self.both(lambda driver: (_get(driver, path), _visible(driver.lstat(path))))

    @precondition(lambda self: self.real.foreign_delete is not None)
    @rule(pick=paths)
    def foreign_delete(self, pick: Pick) -> None:
        assert self.real.foreign_delete is not None
        path = self.path(pick)
        if not _is_file_or_free(self.model, path) or not self.model.exists(path):
            return
        self._close_writers(path)
        self.real.foreign_delete(f"{self.real.directory}/{path}")
        with self._unseen_by_directory(path):
            self.model.unlink(path)
        self.both(lambda driver: driver.exists(path))

    def _close_writers(self, path: str) -> None:
        """What is open for writing keeps its name here, whatever another client does."""
        if not self.model.exists(path):
            return
        ino = self.model.lstat(path).ino
        for real, model in [pair for pair in self._handles if self._writing.get(pair[1]) == ino]:
            self._handles.remove((real, model))
            self.driver.close(real)
            self.model.close(model)

    @contextmanager
    def _unseen_by_directory(self, path: str) -> Iterator[None]:
        """What another client does to a key leaves the times of its directory here."""
        parent = os.path.dirname(path) or "."
        before = self.model.stat(parent)
        yield
        self.model.utime(parent, (before.atime_ns, before.mtime_ns))


def machine_for(make: MakeReal) -> type[ModelMachine]:
    """The machine that holds what make() opens, anew for each example, against the model."""

    class Machine(ModelMachine):
        make_real = staticmethod(make)

    return Machine


def _outcome(call: Callable[[Driver], Outcome], driver: Driver) -> Outcome:
    try:
        return call(driver)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _put(driver: Driver, path: str, content: bytes) -> None:
    with driver.umask(0o022):
        fd = _open_regular(driver, path, W | CREAT | TRUNC)
    try:
        driver.pwrite(fd, content, 0)
    finally:
        driver.close(fd)


def _get(driver: Driver, path: str) -> bytes:
    fd = _open_regular(driver, path, R)
    try:
        return driver.pread(fd, 1 << 20, 0)
    finally:
        driver.close(fd)


def _open_regular(driver: Driver, path: str, how: int) -> Fd:
    """open(2) of anything but a fifo, on which a real system call would wait for the other end."""
    try:
        kind = stat.S_IFMT(driver.stat(path).mode)
    except FileNotFoundError:
        kind = 0
    if kind == stat.S_IFIFO:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    if kind == 0 and how & CREAT and _is_symlink(driver, path):
        # Whether a dangling link is created through is the kernel's doing.
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return driver.open(path, how)


def _is_symlink(driver: Driver, path: str) -> bool:
    try:
        return stat.S_ISLNK(driver.lstat(path).mode)
    except OSError:
        return False


def _is_file_or_free(driver: Driver, path: str) -> bool:
    """Whether another client could put a file there: it has one name, or none, and above it are directories alone."""
    parent = os.path.dirname(path)
    try:
        while parent:
            if not stat.S_ISDIR(driver.lstat(parent).mode):
                return False
            parent = os.path.dirname(parent)
        found = driver.lstat(path)
    except FileNotFoundError:
        return not parent
    except OSError:
        return False
    return stat.S_ISREG(found.mode) and found.nlink == 1


def _visible(found: Stat) -> Outcome:
    """What must be the same everywhere; the size of a directory is everybody's own affair."""
    size = 0 if stat.S_ISDIR(found.mode) else found.size
    mtime_ns = found.mtime_ns if found.mtime_ns < _SET_TIMES_END_NS else "recent"
    return (oct(found.mode), found.nlink, found.uid, found.gid, found.rdev, size, mtime_ns)


def _tree(driver: Driver, path: str = ".") -> dict[str, Outcome]:
    """Everything that is there, by path."""
    tree: dict[str, Outcome] = {}
    for name in driver.names(path):
        below = f"{path}/{name}"
        found = driver.lstat(below)
        inside: Outcome = None
        if stat.S_ISDIR(found.mode):
            tree |= _tree(driver, below)
        elif stat.S_ISREG(found.mode):
            inside = _get(driver, below)
        elif stat.S_ISLNK(found.mode):
            inside = driver.readlink(below)
        xattrs = {name: driver.getxattr(below, name) for name in driver.listxattr(below)}
        tree[below] = (_visible(found), inside, xattrs)
    return tree
