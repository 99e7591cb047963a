"""Gradients through a diffusion model that ComfyUI loaded, for all particles, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .autograd_safe import autograd_safe
from .particle_model import ParticleModel

# Memory of forward and backward with blocks computed again, over ComfyUI's estimate for a forward.
KEPT = 3.0


class ModelVJP:
    """D(x), and the map from v to J^T v, of a model with everything that is combined into it.

    The map computes D again: what autograd keeps is then of a few particles, and is gone before
    the next ones' turn, however many there are.

    Args:
        model: all particles' denoiser.
        networks: all that autograd must pass: the model, and ControlNets beside it.
    """

    def __init__(self, model: ParticleModel, networks: list[nn.Module]) -> None:
        self.model, self.networks = model, networks

    def __call__(self, x: Tensor, sigma_ve: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """As ``guidance.particles.DenoiserVJP``."""

        def pull(v: Tensor) -> Tensor:
            with ExitStack() as inside:
                for network in self.networks:
                    inside.enter_context(autograd_safe(network))
                    inside.enter_context(_without_own_gradient(network))
                    inside.enter_context(recomputing(network))
                return self.model.in_parts(lambda *part: self._pulled(*part, sigma_ve), x, v)

        return self.model(x, sigma_ve), pull

    def _pulled(self, x: Tensor, v: Tensor, sigma_ve: Tensor) -> Tensor:
        """J^T v of some particles of every picture."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            denoised = self.model.evaluated(leaf, sigma_ve)
            # Half precision loses a small gradient: it goes back at unit size, picture by picture.
            size = v.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
            size = torch.where(size > 0, size, 1.0)
            (gradient,) = torch.autograd.grad(denoised, leaf, (v / size).to(denoised.dtype))
        return gradient.float() * size


@contextmanager
def _without_own_gradient(network: nn.Module) -> Iterator[None]:
    """Keep nothing for a gradient of the weights, which nobody asks for; within autograd_safe."""
    with ExitStack() as undo:
        for module in network.modules():
            if hasattr(module, "weight_function"):
                for name in ("weight_function", "bias_function"):
                    before = getattr(module, name)
                    undo.callback(setattr, module, name, before)
                    setattr(module, name, [*before, torch.Tensor.detach])
        yield


@contextmanager
def recomputing(network: nn.Module) -> Iterator[None]:
    """Let a network's blocks compute their inner tensors again in the backward pass.

    Blocks are ResBlocks and the members of lists: transformer blocks of UNets and of DiTs.
    """
    with ExitStack() as undo:
        for block in _blocks(network):
            if "forward" in vars(block):  # another node's: go through it, and leave it there
                undo.callback(setattr, block, "forward", block.forward)
            else:
                undo.callback(delattr, block, "forward")
            block.forward = _checkpointed(block.forward)
        # Stopping early throws out of a layer of ComfyUI, past the end of its weights' transfer.
        with set_checkpoint_early_stop(False):
            yield


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Modules whose inner tensors need not be kept, none within another."""
    found: dict[nn.Module, None] = {}
    inside: set[nn.Module] = set()
    for module in network.modules():  # outer ones first
        members = module if isinstance(module, nn.ModuleList) else [module]
        for block in members:
            listed = block is not module and not isinstance(block, (nn.Sequential, nn.ModuleList))
            if (listed or isinstance(block, ResBlock)) and block not in inside:
                found[block] = None
                inside.update(block.modules())
    return list(found)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        # ComfyUI notes in one dictionary which block is running: keep it as it is now.
        args = tuple(_copied(value) for value in args)
        kwargs = {name: _copied(value) for name, value in kwargs.items()}
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def _copied(value: Any) -> Any:
    """A block may write into what it is given, and is given it again in the backward pass."""
    if isinstance(value, Tensor) and value.requires_grad:
        return value.clone()
    return dict(value) if isinstance(value, dict) else value
