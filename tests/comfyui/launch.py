"""Run a script that imports ComfyUI, where torchvision's wheel may lack its compiled part.

Usage: python launch.py SCRIPT [its own flags]
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept_alive: list[object] = []


def ensure_torchvision() -> None:
    """Define torchvision's missing operators, only where it can't be imported without them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return
    _define_missing_operators()
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")


def _define_missing_operators() -> None:
    """Declare nms and qnms without an implementation; the definitions live as long as the list."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _BOXES)
    _kept_alive.append(library)


def main(script: Path, flags: list[str]) -> None:
    """Run the script with its folder and not this one on sys.path."""
    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry).resolve() != here]
    sys.path[:] = [str(script.parent), *others]
    ensure_torchvision()
    sys.argv = [str(script), *flags]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
