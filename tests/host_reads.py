"""How often code waits for the GPU: numbers that Python reads off tensors, by line of ours.

Counted without a GPU: all that was not made on the host, or of what has been copied there, counts.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from .published import ROOT

LEAN = str(ROOT / "runtime" / "lean.py")  # operations pass through it
COPIES = {Tensor.cpu, Tensor.numpy}
READS = {
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__),
    *(Tensor.__index__, Tensor.is_nonzero, torch.is_nonzero, Tensor.__contains__, *COPIES),
    *(Tensor.equal, torch.equal, torch.allclose, Tensor.nonzero, torch.nonzero),
    *(Tensor.masked_select, torch.masked_select, Tensor.unique, torch.unique),
}
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}


class HostReads(TorchFunctionMode):
    """Notes where the pack's own lines wait for what the host does not have.

    On the host is what was copied there or made of such copies alone, and what lines of ours make
    of nothing, unless they say for which device. To take something to a device is to wait as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.on_host = WeakIdKeyDictionary()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [tensor for tensor in given if tensor not in self.on_host]
        places = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.device)]
        moves = function is Tensor.to and bool(places or "cpu" in args)
        copies = function in COPIES or (moves and "cpu" in args)
        masks = function in INDEXED and any(t.dtype == torch.bool for t in given[1:])
        if (away and (function in READS or masks or copies)) or (moves and not (away or copies)):
            self._note()
        made = function(*args, **kwargs)
        if (copies or moves) and isinstance(made, Tensor):
            made = made.view_as(made)  # without a GPU there is nothing to copy
        if copies or not (away or places or not (given or is_ours(self._frame()))):
            for leaf in tree_leaves(made):
                if isinstance(leaf, Tensor):
                    self.on_host[leaf] = True
        return made

    def _frame(self) -> Any:
        """Of the line that calls."""
        frame = sys._getframe(2)
        while frame.f_code.co_filename == __file__ and frame.f_back is not None:
            frame = frame.f_back
        while frame.f_globals["__name__"].startswith("torch") or frame.f_code.co_filename == LEAN:
            frame = frame.f_back  # type: ignore[assignment]
        return frame

    def _note(self) -> None:
        frame = self._frame()
        if is_ours(frame):
            self.found[f"{frame.f_code.co_filename}:{frame.f_lineno}"] += 1


def is_ours(frame: Any) -> bool:
    """Whether a line is of the pack's own."""
    file = frame.f_code.co_filename
    return file.startswith(str(ROOT)) and "/tests/" not in file
