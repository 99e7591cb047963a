"""Backward passes to the input alone, without what only a gradient of the weights would ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

CONVOLUTIONS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.cudnn_convolution),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
}
NORMS = {F.group_norm, F.normalize}  # their own backward keeps what they are given
POINTWISE = {Tensor.mul, Tensor.add}  # what stands between such a norm and its activation


class Lean(TorchFunctionMode):
    """Inside it a graph of frozen networks keeps less; it gives the same gradient, bit for bit.

    torch keeps the input of a convolution, which only the weight's gradient needs: there its
    shape stands in. SiLU keeps its input: behind a norm that is computed again, of what the norm
    itself keeps. So a residual block of a VAE holds two tensors, and not six. Each operation's
    backward is torch's own. Not inside of a checkpointed block, whose inner tensors it would keep.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made = WeakTensorKeyDictionary()  # -> (how, its version)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """One operation, with hooks on what it saves."""
        run = partial(function, *args, **(kwargs or {}))
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not args:
            return run()
        if function in CONVOLUTIONS and len(args) > 1 and not args[1].requires_grad:
            with saved_tensors_hooks(partial(_without, _memory(args[0])), _there_again):
                return run()
        before = self._how(args[0])
        if function is F.silu and before is not None:
            with saved_tensors_hooks(lambda _: before, _Made.again):
                return run()
        made = run()
        if function in NORMS or (function in POINTWISE and before is not None):
            given = tuple(map(self._given, args))
            self._made[made] = _Made(function, given, kwargs or {}), made._version
        return made

    def _how(self, value: Any) -> _Made | None:
        """How a tensor was made of what is kept; None where that is unknown, or not what it is."""
        if not isinstance(value, Tensor):
            return None
        how, version = self._made.get(value, (None, 0))
        return how if how is not None and version == value._version else None

    def _given(self, value: Any) -> Any:
        """An argument for a second time."""
        return self._how(value) or (value.detach() if isinstance(value, Tensor) else value)


@dataclass(frozen=True)
class _Made:
    """A tensor as the operation that makes it."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def again(self) -> Tensor:
        with torch.no_grad():
            args = [arg.again() if isinstance(arg, _Made) else arg for arg in self.args]
            return self.function(*args, **self.kwargs)


@dataclass(frozen=True)
class _Shape:
    """A tensor whose values nobody will read."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _without(memory: int, saved: Tensor) -> Tensor | _Shape:
    """What is saved, unless it lies in this memory."""
    if _memory(saved) != memory:
        return saved
    return _Shape(saved.size(), saved.stride(), saved.dtype, saved.device)


def _there_again(kept: Tensor | _Shape) -> Tensor:
    """In its own layout, by which torch chooses how to compute."""
    if isinstance(kept, Tensor):
        return kept
    return torch.empty_strided(kept.size, kept.stride, dtype=kept.dtype, device=kept.device)
