"""The command that waits for its daemon: what ends the one ends the other."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from b2fs.daemon.exits import STOPPED_EARLY

_DEADLINE_S = 30

#: A daemon that never gets ready.  A thread takes the signal in the place of the main thread, as if the signal had come
#: in the moment before the main thread began to wait: nothing ends its system call.
_PROGRAM = """
import os, signal, threading
from b2fs.daemon import background

reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(reading)
    signal.alarm(60)
    while True:
        signal.pause()
os.close(writing)
wait, ready = background.select.select, background._READY

def waits(*words):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signals})
    taker = threading.Thread(target=takes)
    taker.start()
    return wait(*words)

def takes():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signals})
    signal.raise_signal({number})

background.select.select = waits
status = background._wait_ready(child, reading)
try:
    os.kill(child, 0)
except ProcessLookupError:
    print("status", status, "and no daemon")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_just_before_the_wait_ends_command_and_daemon(number: signal.Signals) -> None:
    signals = "{signal.SIGINT, signal.SIGTERM, signal.SIGHUP}"
    program = _PROGRAM.replace("{signals}", signals).replace("{number}", str(int(number)))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    assert done.stdout == "status 1 and no daemon\n", done.stderr
    assert done.stderr == f"b2fs: {STOPPED_EARLY}\n"
    assert done.returncode == 0
