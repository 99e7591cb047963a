"""Gradients through a model that ComfyUI loaded in inference mode, without touching its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import comfy.model_management as mm
import torch
from comfy.cli_args import args
from torch import Tensor, nn

COMPILER = "disable_comfy_compiler"  # ComfyUI 0.34 and later read it at every call of a model
TRAINING = "in_training"  # 0.33 and later: rotary embeddings take plain operations then


@contextmanager
def without_compiler() -> Iterator[None]:
    """ComfyUI's own compiler off inside, where there is one: it keeps no graph for a gradient."""
    before = getattr(args, COMPILER, None)
    if before is None:
        yield
        return
    setattr(args, COMPILER, True)
    try:
        yield
    finally:
        setattr(args, COMPILER, before)


@contextmanager
def as_in_training() -> Iterator[None]:
    """ComfyUI's kernels without a derivative off inside, where it has a switch for that."""
    before = getattr(mm, TRAINING, None)
    if before is None:
        yield
        return
    setattr(mm, TRAINING, True)
    try:
        yield
    finally:
        setattr(mm, TRAINING, before)


@contextmanager
def autograd_safe(model: nn.Module) -> Iterator[None]:
    """Let autograd run through ``model`` inside the block; everything is as before after it.

    ComfyUI loads models in inference mode, and autograd refuses to save such weights. Layers made
    by ComfyUI get a weight function that hands out a copy: that hook is also the last step after
    casting, offloading and dequantising, so no copy is a view of a buffer that ComfyUI reuses.
    Other parameters and buffers that are inference tensors are swapped for copies. Newer ComfyUI
    has kernels without a derivative (rotary embeddings), and a switch for plain ones instead.

    Args:
        model: for example a VAE's ``first_stage_model``; loaded already.
    """
    with ExitStack() as undo:
        undo.enter_context(without_compiler())
        undo.enter_context(as_in_training())
        for module in model.modules():
            if hasattr(module, "weight_function"):
                append_to_weights(module, Tensor.clone, undo)
            else:
                _swap_for_copies(module._parameters, undo)
            _swap_for_copies(module._buffers, undo)
        yield


def append_to_weights(
    module: nn.Module, function: Callable[[Tensor], Tensor], undo: ExitStack
) -> None:
    """Let weight and bias of a layer of ComfyUI go through a function last, until ``undo``."""
    for name in ("weight_function", "bias_function"):
        own = vars(module).get(name)
        if own is None:  # the list is the class's: shadow it, and uncover it again afterwards
            undo.callback(delattr, module, name)
        else:
            undo.callback(setattr, module, name, own)
        setattr(module, name, [*getattr(module, name), function])


def _swap_for_copies(tensors: dict[str, Tensor | None], undo: ExitStack) -> None:
    for name, tensor in list(tensors.items()):
        if tensor is None or not tensor.is_inference():
            continue
        undo.callback(tensors.__setitem__, name, tensor)
        with torch.inference_mode(False):
            tensors[name] = tensor.detach().clone()
