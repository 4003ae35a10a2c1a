"""`find` over very many names, on a mount in a process of its own, so that its memory can be held against a bound."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.sites import LONG
from tests.mounting import require_fuse

ROOT = Path(__file__).parents[2]
NAMES = 1_000_000 if LONG else 20_000
#: Of the whole process at its peak, with every name held by the kernel, in MiB.
MOST_MIB = 600 if LONG else 80


@pytest.mark.parametrize("shape", ["flat", "tree"])
@pytest.mark.timeout(1800 if LONG else 300)
def test_find_comes_to_its_end_in_bounded_memory(shape: str) -> None:
    """The report is that of benchmarks/names.py, whose bucket exists only as arithmetic."""
    require_fuse()
    words = ("benchmarks/names.py", "--names", str(NAMES), "--shape", shape, "--commands", "find")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = re.search(r"find: (\d+) lines.* (\d+) requests.*at most (\d+) MiB", done.stdout)
    assert report is not None, done.stdout
    found, requests, most_mib = map(int, report.groups())
    directories = 1 + NAMES // 1000 if shape == "tree" else 1
    assert found == NAMES + directories + 1, "every name, and the root"
    assert requests < 2.5 * NAMES / 1000 + 50, "flat pages, and not a question for each directory or name"
    assert most_mib < MOST_MIB
