"""When memory runs out: how ComfyUI tells, and how room is made for a second try."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import comfy.model_management as mm
import torch
from comfy.sampler_helpers import estimate_memory

GIGABYTE = 2**30

T = TypeVar("T")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is what ComfyUI itself takes for a lack of memory."""
    known = getattr(mm, "is_oom", None)  # newer ones also know other errors of the GPU for it
    return bool(known(error)) if known else isinstance(error, mm.OOM_EXCEPTION)


def unless_out_of_memory(attempt: Callable[[], T]) -> T | None:
    """What an attempt comes to; None where memory ran out, with all that it held let go."""
    try:
        return attempt()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def are_loaded(patchers: Iterable[Any]) -> bool:
    """Whether models are where the memory manager has brought them, and have not been moved off."""
    loaded = {id(entry.model) for entry in mm.current_loaded_models}
    return all(id(patcher) in loaded for patcher in patchers)


def make_room(guider: Any) -> None:
    """Move everything off the model's device but what an evaluation of it runs."""
    device = guider.model_patcher.load_device
    needed = {id(patcher) for patcher in patchers_of_a_run(guider)}
    kept = [entry for entry in mm.current_loaded_models if id(entry.model) in needed]
    mm.free_memory(1e30, device, kept)
    mm.soft_empty_cache()


def patchers_of_a_run(guider: Any) -> list[Any]:
    """The memory manager's handles of the model, and of what runs with it; the model's first."""
    model = guider.model_patcher
    second = getattr(guider, "uncond_model_patcher", None)  # guiders with a model per branch
    helpers = [m for m in getattr(guider, "loaded_models", []) if m is not model]
    return [model, *helpers, *([] if second is None else [second])]


def forward_bytes(guider: Any, shape: torch.Size) -> float:
    """Memory that an evaluation of a batch takes beside the weights, by ComfyUI's own estimate."""
    return float(estimate_memory(guider.model_patcher, shape, guider.conds)[0])


def back_on_device(guider: Any, shape: torch.Size) -> None:
    """Load the model again where another node has moved it off between two evaluations."""
    if not are_loaded([guider.model_patcher]):
        mm.load_models_gpu(patchers_of_a_run(guider), memory_required=forward_bytes(guider, shape))


def no_room_for_model(guider: Any, shape: torch.Size, remedy: str) -> torch.cuda.OutOfMemoryError:
    """ComfyUI's own kind of error, so that it unloads its models as for any other node.

    Args:
        guider: ComfyUI's.
        shape: of what was to be evaluated.
        remedy: what takes less, in a sentence.
    """
    needed = forward_bytes(guider, shape)
    free = mm.get_free_memory(guider.model_patcher.load_device)
    return torch.cuda.OutOfMemoryError(
        f"The diffusion model does not fit into memory: for {shape[0]} images at once it needs "
        f"about {needed / GIGABYTE:.2f} GB beside its weights, and {free / GIGABYTE:.2f} GB are "
        f"free, with the weight's own models out of the way. {remedy}"
    )
