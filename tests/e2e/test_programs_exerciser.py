"""A file exerciser: random calls on one file of a real mount, by every way in that a program has, held against bytes.

Descriptors, mappings, direct I/O, appends, truncation, copies within the file, holes, and remounts in between.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.e2e.sites import LONG
from tests.mounting import mounted, require_fuse

PAGE = mmap.PAGESIZE
#: More than the first range that reading fetches, and some of the kernel's requests.
MOST = 400_000
#: In one example; each takes a second or two.
REMOUNTS = 3 if LONG else 1

offsets = st.one_of(
    st.integers(0, MOST),
    st.integers(0, MOST // PAGE).map(lambda page: page * PAGE),
    st.integers(1, MOST // PAGE).map(lambda page: page * PAGE - 1),
)
lengths = st.one_of(st.sampled_from([1, 17, PAGE, 65_536]), st.integers(1, 130_000))
seeds = st.binary(min_size=1, max_size=9)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
#: fallocate(2): allocate, keep the size, punch a hole, collapse, zero, insert.
FALLOCATE_MODES = (0, 1, 3, 8, 16, 32)


def pattern(seed: bytes, length: int) -> bytes:
    """Bytes of which no short run repeats, so that a page in the wrong place is seen."""
    return b"".join(seed + number.to_bytes(4, "big") for number in range(length // (len(seed) + 4) + 1))[:length]


class Mounts:
    """A filesystem that is mounted, and mounted again."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._stack = ExitStack()
        self.root = self._mount()

    def _mount(self) -> Path:
        return Path(self._stack.enter_context(mounted("b2fs", self._state)).mountpoint)

    def again(self) -> None:
        self.close()
        self.root = self._mount()

    def close(self) -> None:
        self._stack.close()


class Exerciser(RuleBasedStateMachine):
    """The rules; `content` is what the file must hold."""

    mounts: ClassVar[Mounts]
    made: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.name = f"file{self.made}"
        self.content = bytearray()
        self.remounts = 0
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)

    @property
    def path(self) -> Path:
        return self.mounts.root / self.name

    def teardown(self) -> None:
        try:
            assert self.path.read_bytes() == self.content
        finally:
            os.close(self.fd)

    def put(self, offset: int, data: bytes) -> None:
        """What a write does to the content."""
        if offset > len(self.content):
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(data)] = data

    @contextmanager
    def another(self, flags: int) -> Iterator[int]:
        """A second descriptor."""
        fd = os.open(self.path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    @invariant()
    def the_size_agrees(self) -> None:
        assert os.fstat(self.fd).st_size == os.stat(self.path).st_size == len(self.content)

    # -- plain calls

    @rule(offset=offsets, length=lengths, seed=seeds)
    def write(self, offset: int, length: int, seed: bytes) -> None:
        data = pattern(seed, length)
        assert os.pwrite(self.fd, data, offset) == length
        self.put(offset, data)

    @rule(length=st.integers(1, 5000), seed=seeds)
    def append(self, length: int, seed: bytes) -> None:
        with self.another(os.O_WRONLY | os.O_APPEND) as fd:
            assert os.write(fd, pattern(seed, length)) == length
        self.content.extend(pattern(seed, length))

    @rule(offset=offsets, length=lengths, second=st.booleans())
    def read(self, offset: int, length: int, second: bool) -> None:
        with self.another(os.O_RDONLY) as other:
            assert os.pread(other if second else self.fd, length, offset) == self.content[offset : offset + length]

    @rule(size=offsets, by_name=st.booleans())
    def truncate(self, size: int, by_name: bool) -> None:
        os.truncate(self.path if by_name else self.fd, size)
        if size < len(self.content):
            del self.content[size:]
        else:
            self.put(size, b"")

    @rule()
    def fsync(self) -> None:
        os.fsync(self.fd)

    @rule()
    def reopen(self) -> None:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    @rule()
    def read_everything(self) -> None:
        assert self.path.read_bytes() == self.content

    # -- mappings

    def mapped(self, offset: int, length: int, use: Callable[[mmap.mmap, int, int], None]) -> None:
        """Map what is there of a range; use gets the mapping and the range within it."""
        if not self.content:
            return
        offset %= len(self.content)
        end = min(offset + length, len(self.content))
        base = offset - offset % PAGE
        with mmap.mmap(self.fd, end - base, offset=base) as mapping:
            use(mapping, offset - base, end - base)

    @rule(offset=offsets, length=lengths, seed=seeds, flush=st.booleans())
    def map_and_write(self, offset: int, length: int, seed: bytes, flush: bool) -> None:
        def use(mapping: mmap.mmap, start: int, end: int) -> None:
            data = pattern(seed, end - start)
            mapping[start:end] = data
            self.put(offset % len(self.content), data)
            if flush:
                mapping.flush()
            else:
                # A read sees what another mapping holds and nobody has flushed.
                assert os.pread(self.fd, end - start, offset % len(self.content)) == data

        self.mapped(offset, length, use)

    @rule(offset=offsets, length=lengths)
    def map_and_read(self, offset: int, length: int) -> None:
        def use(mapping: mmap.mmap, start: int, end: int) -> None:
            at = offset % len(self.content)
            assert mapping[start:end] == self.content[at : at + end - start]

        self.mapped(offset, length, use)

    # -- past the kernel's pages, and what is refused

    @rule(page=st.integers(0, MOST // PAGE), pages=st.integers(1, 20), seed=seeds)
    def write_directly(self, page: int, pages: int, seed: bytes) -> None:
        data = pattern(seed, pages * PAGE)
        with self.another(os.O_WRONLY | os.O_DIRECT) as fd, mmap.mmap(-1, len(data)) as aligned:
            aligned[:] = data
            assert os.pwrite(fd, aligned, page * PAGE) == len(data)
        self.put(page * PAGE, data)

    @rule(page=st.integers(0, MOST // PAGE), pages=st.integers(1, 20))
    def read_directly(self, page: int, pages: int) -> None:
        with self.another(os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, pages * PAGE) as aligned:
            count = os.preadv(fd, [aligned], page * PAGE)
            assert aligned[:count] == self.content[page * PAGE : (page + pages) * PAGE]

    @rule(source=offsets, to=offsets, length=lengths)
    def copy_within(self, source: int, to: int, length: int) -> None:
        length = min(length, max(0, len(self.content) - source))
        if length == 0 or abs(source - to) < length:
            return
        count = os.copy_file_range(self.fd, self.fd, length, source, to)
        assert count > 0
        self.put(to, bytes(self.content[source : source + count]))

    @rule(mode=st.sampled_from(FALLOCATE_MODES), offset=offsets, length=lengths)
    def fallocate_is_refused(self, mode: int, offset: int, length: int) -> None:
        assert _libc.fallocate(self.fd, mode, offset, length) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP

    @rule(offset=offsets)
    def seek_data_and_holes(self, offset: int) -> None:
        """Zeros may be told as data; the end is the last hole."""
        if offset < len(self.content):
            assert os.lseek(self.fd, offset, os.SEEK_DATA) >= offset
            assert offset <= os.lseek(self.fd, offset, os.SEEK_HOLE) <= len(self.content)
        else:
            with pytest.raises(OSError) as caught:
                os.lseek(self.fd, offset, os.SEEK_DATA)
            assert caught.value.errno == errno.ENXIO

    @precondition(lambda self: self.remounts < REMOUNTS)
    @rule()
    def remount(self) -> None:
        self.remounts += 1
        os.close(self.fd)
        self.mounts.again()
        self.fd = os.open(self.path, os.O_RDWR)


@pytest.mark.timeout(600)
def test_a_file_agrees_with_bytes_whatever_the_way_in() -> None:
    require_fuse()
    with tempfile.TemporaryDirectory(prefix="b2fs-exerciser-") as state:
        Exerciser.mounts = Mounts(Path(state))
        try:
            run_state_machine_as_test(
                Exerciser, settings=settings(max_examples=200 if LONG else 5, stateful_step_count=50)
            )
        finally:
            Exerciser.mounts.close()
