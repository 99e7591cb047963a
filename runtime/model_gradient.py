"""The gradient through the diffusion model itself, where ComfyUI runs its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management as mm
import torch
from comfy.sampler_helpers import estimate_memory
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from ..guidance import VEView
from ..guidance.finite_difference import rms
from ..guidance.ve import per_sample
from .autograd_safe import autograd_safe
from .memory import GIGABYTE, is_out_of_memory, patchers_of_a_run
from .run import Evaluations

LISTS = (nn.ModuleList, nn.Sequential)


class DifferentiableModel:
    """One evaluation of the model, as a denoiser that can be gone back through.

    Args:
        evaluations: the model at a noise level, as the guidance has it.
        networks: everything that an evaluation runs: the model, its ControlNets.
        cfg: scale of classifier-free guidance.
    """

    def __init__(self, evaluations: Evaluations, networks: list[nn.Module], cfg: float) -> None:
        self.at, self.networks, self.cfg = evaluations, networks, cfg

    def __call__(self, x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        """D(x), without a graph."""
        return self.at(x_ve, sigma_ve)

    def correction(self) -> Tensor | None:
        """cfg (D_conditional - D_unconditional) of the last evaluation; None with one branch."""
        if not self.at.branches:
            return None
        conditional, unconditional = self.at.branches
        return self.cfg * (conditional - unconditional).detach()

    def vjp(self, x_ve: Tensor, sigma_ve: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(D(x), the map from v to J^T v, to be called once).

        Raises:
            ValueError: something on the way keeps tensors that autograd refuses.
            torch.cuda.OutOfMemoryError: it does not fit.
        """
        mm.throw_exception_if_processing_interrupted()
        at = self.at
        with self._followed():
            view = VEView(at.view.signal.clone(), at.view.noise.clone())
            leaf = x_ve.detach().clone().requires_grad_()
            options = at._branch_by(at.options, at._both)
            denoised = at.model(view.from_ve(leaf), at.timestep.clone(), options, at.seed)
        plain = denoised.detach()
        if x_ve is at.x_ve:
            at.own = plain  # an evaluation of the same x again costs nothing

        def pull(v: Tensor) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            with self._followed():
                # Brought to unit size per sample: half precision would lose a small gradient.
                size = per_sample(rms(v).clamp(min=1e-30), v)
                unit = (v.detach().float() / size).to(denoised.dtype)
                (gradient,) = torch.autograd.grad(denoised, leaf, unit)
            return gradient.float() * size

        return plain, pull

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Inside it autograd follows the networks; they are as before after it."""
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
                for network in self.networks:
                    stack.enter_context(autograd_safe(network))
                    stack.enter_context(_frozen(network))
                    stack.enter_context(recomputed(network))
                yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise self._no_room() from error
            if "nference tensor" not in str(error):
                raise
            raise ValueError(
                "Something on this model cannot be differentiated (a patch of another node, most "
                "likely), and DPS and FreeDoM need the gradient through the model. Remove the "
                f"patch, or take LAGS without a method, or LiDAR. PyTorch said: {error}"
            ) from error

    def _no_room(self) -> torch.cuda.OutOfMemoryError:
        guider, shape = self.at.guider, self.at.x.shape
        free = mm.get_free_memory(guider.model_patcher.load_device)
        return torch.cuda.OutOfMemoryError(
            "The gradient through the diffusion model does not fit into memory: for "
            f"{shape[0]} pictures it needs about {gradient_bytes(guider, shape) / GIGABYTE:.2f} "
            f"GB, and {free / GIGABYTE:.2f} GB are free. Make the picture or the batch smaller, or "
            "take LAGS without a method: it needs no such gradient."
        )


def networks_of(guider: Any) -> list[nn.Module]:
    """Everything that an evaluation of a guider runs, once each."""
    patchers = patchers_of_a_run(guider)
    networks = {id(p.model): p.model for p in patchers if isinstance(p.model, nn.Module)}
    return list(networks.values())


# Memory of forward and backward with the blocks recomputed, as a multiple of ComfyUI's estimate for
# a forward. Counted on the meta device in half precision with attention that keeps no scores: 3.7
# for SD1.5 at 512 pixels (602 MiB for both branches, estimate 164), 2.65 for SDXL at 1024 (1389,
# 524). ComfyUI's estimate for attention that does keep them is 7.5 times as high: there the count
# with scores is 1.6 and 0.77.
KEPT = 4.0


def gradient_bytes(guider: Any, shape: torch.Size) -> float:
    """Memory that the gradient of a batch through the model takes, weights not counted."""
    forward, _ = estimate_memory(guider.model_patcher, shape, guider.conds)
    return KEPT * float(forward)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradient of the weights, which nobody asks for, so nothing is kept for it.

    Inside of ``autograd_safe``, whose lists it adds to.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if not hasattr(module, "weight_function"):
                continue
            for name in ("weight_function", "bias_function"):
                functions = getattr(module, name)
                undo.callback(setattr, module, name, functions)
                setattr(module, name, [*functions, torch.Tensor.detach])
        yield


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Let a model's blocks compute their inner tensors again in the backward pass.

    The blocks are as before after it; a backward pass must run inside it as well.
    """
    with ExitStack() as undo:
        for block in blocks(model):
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
        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

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
