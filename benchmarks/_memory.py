"""Bytes that autograd keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(run: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that are kept while ``run()`` builds its graph, weights not counted.

    Each piece of memory counts once, however many tensors look at it. What a checkpointed block
    makes anew in the backward pass is not among them.

    Args:
        run: a forward pass; what it returns is dropped.
        weights: tensors that are there anyway.
    """
    known = {_memory(weight) for weight in weights}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if _memory(tensor) not in known:
            kept[_memory(tensor)] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # else its memory could be given out again, and be taken for the same
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(kept.values())


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
