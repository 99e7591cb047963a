"""Bytes that autograd keeps for the backward pass, and the most that are alive at one time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(run: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that are kept while ``run()`` builds its graph, weights not counted.

    Each piece of memory counts once, however many tensors look at it. What a checkpointed block
    makes anew in the backward pass is not among them. Works on the meta device too.

    Args:
        run: a forward pass; what it returns is dropped.
        weights: tensors that are there anyway.
    """
    known = {_memory(weight) for weight in weights}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # else its memory could be given out again, and be taken for the same
        if _memory(tensor) not in known:
            kept[_memory(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(kept.values())


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors made inside ``run()`` that are alive at one time.

    What a kernel takes for itself is not among them. Works on the meta device, where nothing is
    computed and nothing takes memory.
    """
    with _Living() as living:
        run()
    return living.peak


def held_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes of tensors made inside ``run()`` that what it returns keeps alive: itself, its graph.

    As ``saved_bytes``, where what is kept goes past the hooks of others.
    """
    with _Living() as living:
        output = run()
        held = living.now
    del output
    return held


class _Living(TorchDispatchMode):
    """Follows the memory of every tensor that an operation returns until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        before = {_memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _memory(tensor) not in self.sizes.keys() | before:
                key, storage = _memory(tensor), tensor.untyped_storage()
                self.sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, key)
        return result

    def _freed(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def _memory(tensor: Tensor) -> int:
    """What tells one piece of memory from another; an address would not, on the meta device."""
    return tensor.untyped_storage()._cdata
