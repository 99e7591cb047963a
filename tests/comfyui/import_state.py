"""Import ComfyUI, then the pack; print as JSON what the import has changed around it.

Usage: python import_state.py COMFYUI_FOLDER BASE_FOLDER PACK_FOLDER
"""

from __future__ import annotations

import decimal
import gc
import importlib
import json
import locale
import logging
import os
import random
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from import_cost import import_comfyui, import_pack

TORCH = {
    "default dtype": "torch.get_default_dtype",
    "gradients": "torch.is_grad_enabled",
    "inference mode": "torch.is_inference_mode_enabled",
    "anomaly detection": "torch.is_anomaly_enabled",
    "deterministic": "torch.are_deterministic_algorithms_enabled",
    "threads": "torch.get_num_threads",
    "threads between operations": "torch.get_num_interop_threads",
    "precision of products": "torch.get_float32_matmul_precision",
    "random state": "torch.initial_seed",
    "benchmark": "torch.backends.cudnn.benchmark",
    "cudnn deterministic": "torch.backends.cudnn.deterministic",
    "tf32 in convolutions": "torch.backends.cudnn.allow_tf32",
    "tf32 in products": "torch.backends.cuda.matmul.allow_tf32",
    "flash attention": "torch.backends.cuda.flash_sdp_enabled",
    "autocast": "torch.is_autocast_enabled",
}


def settings() -> dict[str, Any]:
    """What all of a process shares, as text."""
    handlers = [number for number in signal.valid_signals()]
    found = {
        "sys.path": list(sys.path),
        "sys hooks": [sys.meta_path, sys.path_hooks, sys.excepthook, sys.displayhook],
        "standard streams": [sys.stdin, sys.stdout, sys.stderr],
        "recursion limit": sys.getrecursionlimit(),
        "tracing": [sys.gettrace(), sys.getprofile()],
        "environment": dict(os.environ),
        "working folder": os.getcwd(),
        "signals": [(int(number), signal.getsignal(number)) for number in handlers],
        "warnings": [warnings.filters, warnings.showwarning],
        "loggers": levels(),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal": decimal.getcontext(),
        "garbage collector": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks)],
        "random state": hash(random.getstate()),
        "threads": [thread.name for thread in threading.enumerate()],
    }
    return {name: repr(value) for name, value in found.items()} | torch_settings()


def torch_settings() -> dict[str, str]:
    found = {}
    for name, path in TORCH.items():
        value: Any = sys.modules["torch"]
        for part in path.split(".")[1:]:
            value = getattr(value, part)
        found[f"torch: {name}"] = repr(value() if callable(value) else value)
    numpy = importlib.import_module("numpy")
    return found | {
        "numpy: errors": repr(numpy.geterr()),
        "numpy: random state": repr(numpy.random.get_state()[1].sum()),
        "numpy: printing": repr(numpy.get_printoptions()),
    }


def levels() -> dict[str, Any]:
    """Level, handlers and filters of the root logger and of every logger that is set up."""
    found = {"root": logging.root, **logging.root.manager.loggerDict}
    return {
        name: (logger.level, logger.handlers, logger.filters, logger.disabled, logger.propagate)
        for name, logger in sorted(found.items())
        if isinstance(logger, logging.Logger)
    } | {"disabled below": logging.root.manager.disable}


def is_watched(name: str, module: Any, root: Path) -> bool:
    """Whether a module is ComfyUI's own, or one that patches are tempted to change."""
    file = getattr(module, "__file__", None) or ""
    shared = ("torch", "transformers", "safetensors", "numpy", "PIL", "asyncio", "aiohttp")
    return Path(file).is_relative_to(root) or name.split(".")[0] in shared


def attributes(root: Path) -> dict[str, Any]:
    """Every attribute of every watched module, and of the classes that it defines.

    The objects themselves, so that none of them can go and leave its id to another one.
    """
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or not is_watched(name, module, root):
            continue
        for key, value in list(vars(module).items()):
            found[f"{name}.{key}"] = value
            is_class = issubclass(type(value), type)  # isinstance would wake what is lazy
            if is_class and value.__module__ == name:
                for inner, of in list(vars(value).items()):
                    found[f"{name}.{key}.{inner}"] = of
    return found


def contents(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    found = {}
    for name, value in attributes(root).items():
        if name.endswith("__builtins__") or not is_comfyui(name, root):
            continue
        if isinstance(value, dict):
            found[name] = list(value.items())
        elif isinstance(value, (list, set)):
            found[name] = [(item,) for item in value]
    return found


def differences(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> list[str]:
    """Entries that came, went, or have another value."""
    was, now = ({tuple(map(id, entry)): entry for entry in side} for side in (before, after))
    return sorted(repr((was | now)[key][0]) for key in was.keys() ^ now.keys())


def is_comfyui(name: str, root: Path) -> bool:
    file = getattr(sys.modules.get(name.split(".")[0]), "__file__", None)
    places = list(getattr(sys.modules.get(name.split(".")[0]), "__path__", []))
    return any(Path(place).is_relative_to(root) for place in filter(None, [file, *places]))


def changed(before: dict[str, Any], after: dict[str, Any], same: Callable[..., bool]) -> list[str]:
    """Names whose value is gone or another one; new names do not count."""
    return sorted(n for n in before if n not in after or not same(before[n], after[n]))


def added(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """New names on modules that were there; a module's new parts are what every import brings."""
    modules = {name.rsplit(".", 1)[0] for name in before}
    new = [name for name in after if name not in before and name.rsplit(".", 1)[0] in modules]
    return sorted(name for name in new if not isinstance(after[name], types.ModuleType))


def main(root: Path, base: Path, pack: Path) -> None:
    import_comfyui(root, base)
    set_up, had, held = settings(), attributes(root), contents(root)
    sys.audit("lags.mark", "before the pack")
    import_pack(pack)
    sys.audit("lags.mark", "after the pack")
    set_up_now, has, holds = settings(), attributes(root), contents(root)
    grown = {name: differences(entries, holds.get(name, [])) for name, entries in held.items()}
    report = {
        "settings": changed(set_up, set_up_now, lambda old, new: old == new),
        "replaced": changed(had, has, lambda old, new: old is new),
        "added": added(had, has),
        "contents": {name: entries for name, entries in grown.items() if entries},
        "watched": len(had),
        "containers": len(held),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
