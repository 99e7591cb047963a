"""Backward passes through models that ComfyUI loaded, where it runs its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from traceback import walk_tb
from typing import Any

import comfy.hooks
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .autograd_safe import append_to_weights, autograd_safe
from .guiders import hook_groups
from .memory import forward_bytes, is_out_of_memory, patchers_of_a_run

LISTS = (nn.ModuleList, nn.Sequential)
WEIGHT_HOOK = comfy.hooks.EnumHookType.Weight
# Memory of forward and backward with the blocks recomputed, as a multiple of ComfyUI's estimate for
# a forward. Counted on the meta device in half precision with attention that keeps no scores: 3.7
# for SD1.5 at 512 pixels (602 MiB for both branches, estimate 164), 2.65 for SDXL at 1024 (1389,
# 524). ComfyUI's estimate for attention that does keep them is 7.5 times as high: there the count
# with scores is 1.6 and 0.77.
KEPT = 4.0


@contextmanager
def differentiable(networks: list[nn.Module]) -> Iterator[None]:
    """Let autograd follow networks, as functions of their inputs; they are as before after it.

    Args:
        networks: everything that an evaluation runs: the model, its ControlNets.
    """
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(autograd_safe(network))
            stack.enter_context(frozen(network))
            stack.enter_context(recomputed(blocks(network)))
        yield


@contextmanager
def followed(networks: list[nn.Module], who: str, instead: str) -> Iterator[None]:
    """``differentiable`` with autograd on, and in words what it cannot follow.

    Args:
        networks: as there.
        who: goes back through them, in words.
        instead: what needs no such gradient, in words.

    Raises:
        ValueError: something on the way keeps tensors that autograd refuses, or is compiled.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), differentiable(networks):
            yield
    except Exception as error:
        if is_out_of_memory(error) or not _is_autograds(error):
            raise
        raise ValueError(
            "Something on this model cannot be differentiated (a compiled model: TorchCompileModel "
            "or another use of torch.compile; or a patch of another node), and "
            f"{who} need the gradient through the model. Remove that node, or {instead}. It said: "
            f"{type(error).__name__}: {error}"
        ) from error


COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch")
REFUSALS = ("nference tensor", "does not require grad", "inplace operation", "backward")


def _is_autograds(error: Exception) -> bool:
    """Whether an error is of going backward or of a compiler, not of the evaluation itself."""
    if any(word in str(error) for word in REFUSALS):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return "torch.autograd" in frames or type(error).__module__.startswith(COMPILERS)


def networks_of(guider: Any) -> list[nn.Module]:
    """Everything that an evaluation of a guider runs, once each, to go backward through.

    Raises:
        ValueError: the model's weights change from prompt to prompt, within one evaluation.
    """
    groups = hook_groups(guider)
    hooked = [group for group in groups if group is not None and group.get_type(WEIGHT_HOOK)]
    if hooked and len(groups) > 1:
        raise ValueError(
            "A LoRA hangs on some of the prompts only (Create Hook LoRA), so the model's weights "
            "change within an evaluation, and its gradient would be that of the last ones. Put the "
            "LoRA on the MODEL, hang the same hooks on all prompts, or take a method that needs no "
            "gradient through the model: LAGS, LiDAR, smc or fk."
        )
    patchers = patchers_of_a_run(guider)
    networks = {id(p.model): p.model for p in patchers if isinstance(p.model, nn.Module)}
    return list(networks.values())


def gradient_bytes(guider: Any, shape: torch.Size) -> float:
    """Memory that the gradient of a batch through the model takes, weights not counted."""
    return KEPT * forward_bytes(guider, shape)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradient of the weights, which nobody asks for, so nothing is kept for it.

    Inside of ``autograd_safe``, whose lists it adds to.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if hasattr(module, "weight_function"):
                append_to_weights(module, Tensor.detach, undo)
                continue
            for name, tensor in list(module._parameters.items()):
                if tensor is not None and tensor.requires_grad:
                    undo.callback(module._parameters.__setitem__, name, tensor)
                    module._parameters[name] = tensor.detach()  # type: ignore[assignment]
        yield


@contextmanager
def recomputed(members: list[nn.Module]) -> Iterator[None]:
    """Let blocks compute their inner tensors again in the backward pass, which keeps one a block.

    The blocks are as before after it; a backward pass must run inside it as well.
    """
    with ExitStack() as undo:
        for block in members:
            if "forward" in vars(block):  # another node's: go through it, and leave it there
                undo.callback(setattr, block, "forward", block.forward)
            else:
                undo.callback(delattr, block, "forward")
            block.forward = _recomputing(block.forward)
        # Stopping early throws out of a layer of ComfyUI, past the end of its weights' transfer.
        with set_checkpoint_early_stop(False):
            yield


def blocks(model: nn.Module) -> list[nn.Module]:
    """The innermost members of a model's lists of modules: its residual and attention blocks."""
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for member in _members(module):
                if not any(isinstance(part, nn.ModuleList) for part in member.modules()):
                    found[id(member)] = member
    return list(found.values())


def _members(modules: nn.Module) -> Iterator[nn.Module]:
    """What is in a list, also in a list in it."""
    for child in modules.children():
        if isinstance(child, LISTS):
            yield from _members(child)
        else:
            yield child


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward that is run again in the backward pass, on what it was given at first."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # ComfyUI counts blocks in a dictionary that goes through all of them, which patches read,
        # and it adds a ControlNet's output to what an earlier block was given: keep both as now.
        args, kwargs = _own(args, kwargs)
        # Some blocks draw random numbers, as Token Merging does: the same ones again.
        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        # Some blocks write into what they are given, which has to be there a second time.
        args, kwargs = _own(args, kwargs)
        return forward(*args, **kwargs)

    return run


def _own(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Copies of what may be written into."""
    return tuple(map(_copy, args)), {name: _copy(value) for name, value in kwargs.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor) and value.requires_grad:
        return value.clone()
    return dict(value) if isinstance(value, dict) else value
