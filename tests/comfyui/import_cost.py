"""Import ComfyUI, then the pack; print as JSON what that took and what it loaded.

Usage: python import_cost.py COMFYUI_FOLDER BASE_FOLDER PACK_FOLDER
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def import_comfyui(root: Path, base: Path) -> None:
    """Most of what ComfyUI's main.py has imported when it comes to the packs."""
    here = Path(__file__).resolve().parent
    importlib.import_module("launch").ensure_torchvision()
    sys.path[:] = [str(root)] + [entry for entry in sys.path if Path(entry).resolve() != here]
    importlib.import_module("comfy.options")
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.base_directory = True, str(base)
    for name in ("nodes", "comfy_api.latest"):
        importlib.import_module(name)


def import_pack(pack: Path) -> None:
    """As ComfyUI does: by path."""
    spec = importlib.util.spec_from_file_location(
        "lags_pack", pack / "__init__.py", submodule_search_locations=[str(pack)]
    )
    module = sys.modules["lags_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def seconds_in_a_fork(pack: Path, compiled: str) -> float:
    """CPU seconds of an import of the pack; this process goes on without it.

    Python keeps the code it compiles in ``compiled``, also where it is told to keep none: every
    start of ComfyUI but the first after an update finds it there.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        sys.dont_write_bytecode, sys.pycache_prefix = False, compiled
        start = time.process_time()
        import_pack(pack)
        os.write(write, str(time.process_time() - start).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return float(pipe.read())


def new_since(before: set[str]) -> list[str]:
    new = sys.modules.keys() - before
    return sorted(name for name in new if name.split(".")[0] != "lags_pack")


def main(root: Path, base: Path, pack: Path) -> None:
    import_comfyui(root, base)
    gc.freeze()  # else a collection in a fork copies the memory of all that ComfyUI imported
    with tempfile.TemporaryDirectory() as compiled:
        first, *later = [seconds_in_a_fork(pack, compiled) for _ in range(6)]
    found: dict[str, Any] = {"first start": first, "seconds": later}
    before = set(sys.modules)
    import_pack(pack)
    found["by import"] = new_since(before)
    nodes = importlib.import_module("lags_pack.nodes")
    found["schemas"] = [node.__name__ for node in nodes.NODES if node.INPUT_TYPES()]
    found["by schemas"] = new_since(before)
    load_weight = importlib.import_module("lags_pack.nodes.weights.load_weight")
    models = importlib.import_module("lags_pack.runtime.models")
    reward = {"reward": "PickScore", "file": "auto", "prompt": "", "precision": "auto"}
    weight = load_weight.LAGSLoadWeight.execute(reward | {"strength": 1.0}).result[0]
    models.load(weight.modules)
    loaded = importlib.import_module("comfy.model_management").current_loaded_models
    found["loaded"] = [type(entry.model).__name__ for entry in loaded]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
