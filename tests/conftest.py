"""Makes the pack importable as `lags_pack`, by path: it has no name of its own inside ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACK, ROOT = "lags_pack", Path(__file__).resolve().parents[1]


def pytest_sessionstart() -> None:
    """Load the pack before collection, unless tests/comfyui has loaded it inside its ComfyUI."""
    if PACK in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    package = sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
