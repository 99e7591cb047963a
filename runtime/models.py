"""Reward models in ComfyUI's memory manager: loaded once, shared, and freed with all others."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..rewards.checkpoint import signature

Module = TypeVar("Module", bound=nn.Module)
PRECISIONS = ("auto", "float32", "float16", "bfloat16")


class WholePatcher(ModelPatcher):  # type: ignore[misc]
    """A model that is on the device with all its layers or with none.

    ComfyUI's partial loading needs layers that fetch their weights; those of other libraries do
    not, and would end up on two devices.
    """

    def partially_load(self, device_to: Any, extra_memory: float = 0, **options: Any) -> Any:
        """Load all of it."""
        return super().partially_load(device_to, 1e32, **options)

    def partially_unload(self, *_: Any, **__: Any) -> int:
        """Nothing: the caller then unloads all of it."""
        return 0


_models: WeakValueDictionary[tuple[Any, ...], nn.Module] = WeakValueDictionary()
_patchers: WeakValueDictionary[int, WholePatcher] = WeakValueDictionary()


def shared(build: Callable[[Path, torch.dtype], Module], path: Path, precision: str) -> Module:
    """The model that a function builds from a file; one for all who ask for the same.

    Args:
        build: (path, dtype) -> module.
        path: the file; when it or what lies beside it has changed on disk, it is read again.
        precision: one of ``PRECISIONS``; auto is what suits the device.
    """
    dtype = dtype_of(precision)
    key = (build.__module__, build.__qualname__, str(path), signature(path), dtype)
    model = _models.get(key)
    if model is None:
        mm.throw_exception_if_processing_interrupted()
        with torch.inference_mode(False), torch.no_grad():
            model = _models[key] = build(path, dtype)
    return model  # type: ignore[return-value]


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of a precision.

    Raises:
        ValueError: an unknown one.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {PRECISIONS}.")
    if precision != PRECISIONS[0]:
        return getattr(torch, precision)
    device = mm.get_torch_device()
    if mm.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if mm.should_use_bf16(device) else torch.float32


def patchers_of(modules: Iterable[nn.Module]) -> list[WholePatcher]:
    """The memory manager's handles of models."""
    return [_patcher_of(module) for module in modules]


def _patcher_of(module: nn.Module) -> WholePatcher:
    patcher = _patchers.get(id(module))
    if patcher is None:
        patcher = WholePatcher(module, mm.get_torch_device(), mm.text_encoder_offload_device())
        _patchers[id(module)] = patcher
    return patcher


def load(modules: Iterable[nn.Module], beside: Iterable[Any] = (), memory: float = 0) -> None:
    """Bring models to the device, ready for gradients, and keep them together with others there.

    Args:
        modules: reward models.
        beside: patchers of other models that the same step needs; none of them evicts another.
        memory: bytes that the step needs beside the weights.
    """
    patchers = patchers_of(modules)
    mm.load_models_gpu([*beside, *patchers], memory_required=memory)
    for patcher in patchers:
        make_normal(patcher.model)
    _keep_while_loaded(patchers)


def _keep_while_loaded(patchers: list[WholePatcher]) -> None:
    """Let ComfyUI's list of loaded models hold these, so that a changed prompt reads no file again.

    Unloading ("Unload models", or another model's need) takes the entry from the list, and with it
    goes the memory, unless a weight in the graph still holds the model.
    """
    for entry in mm.current_loaded_models:
        if any(entry.model is patcher for patcher in patchers):
            entry.lags_keeps = entry.model


@atexit.register
def _let_go() -> None:
    """At the end of the process, while ComfyUI's modules are still there for a patcher's end."""
    for entry in list(mm.current_loaded_models):  # it shrinks on the way
        vars(entry).pop("lags_keeps", None)


def make_normal(module: nn.Module) -> None:
    """Turn weights that were moved in inference mode into tensors that autograd accepts."""
    with torch.inference_mode(False):
        for weight in module.parameters():
            if weight.is_inference():
                weight.data = weight.data.clone()
        # A buffer is a new tensor after a move, and cannot be made normal in place: it would have
        # no version counter, which the backward of a BatchNorm asks for.
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.is_inference():
                    part._buffers[name] = buffer.clone()
