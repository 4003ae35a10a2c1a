"""What is installed: every module of the source tree, and what says that it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_module_is_installed(tmp_path: Path) -> None:
    words = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    source = ROOT / "b2fs"
    wanted = {path.relative_to(ROOT) for path in (*source.rglob("*.py"), source / "py.typed")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == wanted
