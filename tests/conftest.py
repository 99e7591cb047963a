"""Makes the pack importable as `lags_pack`, by path: it has no name of its own inside ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PACK, ROOT = "lags_pack", Path(__file__).resolve().parents[1]


def pytest_sessionstart() -> None:
    """Load the pack before collection, unless tests/comfyui has loaded it inside its ComfyUI."""
    if PACK in sys.modules:
        return
    load("__init__.py", PACK)
    # Every call into guidance/ is held to the shapes and types that its signature states.
    if importlib.util.find_spec("jaxtyping"):  # the browser tests' Python may lack it
        from jaxtyping import install_import_hook

        install_import_hook(f"{PACK}.guidance", "beartype.beartype")
    # transformers and open_clip import torchvision, whose CPU wheel may lack its compiled part.
    load("tests/comfyui/launch.py", f"{PACK}.tests.launch").ensure_torchvision()


def load(file: str, name: str) -> ModuleType:
    """Run a file of the pack as the module of that name."""
    path = ROOT / file
    folders = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
