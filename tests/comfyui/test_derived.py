"""What follows from the nodes is up to date: the one place where that is checked."""

from __future__ import annotations

import os
import subprocess
import sys

from lags_pack.tests import published


def test_derived_files_are_up_to_date(comfy_root):
    """As ``dev.py sync --check`` finds it, in a process of its own: it imports all of ComfyUI."""
    command = [sys.executable, published.ROOT / "dev.py", "sync", "--check"]
    environ = {**os.environ, "COMFYUI_PATH": str(comfy_root), "COMFYUI_PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, f"run `python3 dev.py sync`: {done.stdout}{done.stderr}"
    assert done.stdout == ""
