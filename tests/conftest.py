"""What all tests share: servers, how thoroughly hypothesis looks, where control sockets are, the spread over processes.

The ordinary run is the same every time; B2FS_LONG=1 looks further, with new random examples.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from b2fs.daemon.sockets import RUNTIME_VARIABLE
from tests.servers import rclone_s3, seaweedfs

__all__ = ["rclone_s3", "seaweedfs"]

_UNHURRIED = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "quick",
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=_UNHURRIED,
)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=_UNHURRIED)
settings.load_profile("long" if os.environ.get("B2FS_LONG") == "1" else "quick")


@pytest.fixture(scope="session", autouse=True)
def _own_control_sockets() -> Iterator[None]:
    """Daemons that tests start, and kill, leave no socket where the machine's own mounts have theirs."""
    # Not below pytest's own directories: a socket's path has room for 107 bytes.
    with tempfile.TemporaryDirectory(prefix="b2fs-run-") as directory, pytest.MonkeyPatch.context() as environment:
        environment.setenv(RUNTIME_VARIABLE, directory)
        yield


@pytest.fixture(scope="session", autouse=True)
def _heeded_signals() -> None:
    """What whoever started the tests ignores (nohup, a background job of a shell) is not ignored by what they start."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


#: Beyond this pytest's own account of a difference takes minutes to make, and no one reads it.
_LEGIBLE_BYTES = 4096


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """What differs between large contents: names, sizes and the first place, not the bytes."""
    if op != "==":
        return None
    if isinstance(left, bytes) and isinstance(right, bytes) and len(left) + len(right) > _LEGIBLE_BYTES:
        return ["large contents are equal", _difference(left, right)]
    if isinstance(left, Mapping) and isinstance(right, Mapping) and _bytes_in(left) + _bytes_in(right) > _LEGIBLE_BYTES:
        names = sorted(map(str, (name for name in {*left, *right} if left.get(name) != right.get(name))))
        lines = [f"{name}: {_difference(left.get(name), right.get(name))}" for name in names[:20]]
        return [f"large contents are equal; {len(names)} differ", *lines]
    return None


def _bytes_in(contents: Mapping[object, object]) -> int:
    return sum(len(value) for value in contents.values() if isinstance(value, bytes))


def _difference(left: object, right: object) -> str:
    if not isinstance(left, bytes) or not isinstance(right, bytes):
        sides = (f"{len(side)} bytes" if isinstance(side, bytes) else repr(side)[:200] for side in (left, right))
        return " != ".join(sides)
    shorter = min(len(left), len(right))
    at = next((place for place, (ours, theirs) in enumerate(zip(left, right, strict=False)) if ours != theirs), shorter)
    return f"{len(left)} != {len(right)} bytes, from {at} on: {left[at : at + 40]!r} != {right[at : at + 40]!r}"


#: What the tests of tests/vfs run on, as their names say it.
_FILESYSTEM = re.compile(r"(memfs|b2fs)-(direct|mounted)")


class _Spread(LoadScopeScheduling):  # type: ignore[misc]  # the plugin ships no types
    """What shares something that is slow to start stays in one process: a filesystem's tests, else a module's."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.startswith("tests/contract/"):
            return "tests/contract"
        found = _FILESYSTEM.search(nodeid) if module.startswith("tests/vfs/") else None
        return found[0] if found else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Spread:
    """Used when there is more than one process: pytest --numprocesses."""
    return _Spread(config, log)
