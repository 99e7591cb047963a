"""Gradients through a diffusion model that ComfyUI loaded, for all particles, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .autograd_safe import autograd_safe
from .model_gradient import _frozen, blocks
from .particle_model import ParticleModel


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
                    inside.enter_context(_frozen(network))
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
def recomputing(network: nn.Module) -> Iterator[None]:
    """Let a network's blocks compute their inner tensors again in the backward pass.

    Unlike ``model_gradient.recomputed`` it bears that a tensor which a block was given is written
    into later, as ComfyUI does when it adds a ControlNet's output to a skip connection.
    """
    with ExitStack() as undo:
        for block in blocks(network):
            if "forward" in vars(block):  # another node's: go through it, and leave it there
                undo.callback(setattr, block, "forward", block.forward)
            else:
                undo.callback(delattr, block, "forward")
            block.forward = _checkpointed(block.forward)
        # Stopping early throws out of a layer of ComfyUI, past the end of its weights' transfer.
        with set_checkpoint_early_stop(False):
            yield


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        # ComfyUI notes in one dictionary which block is running: keep it as it is now.
        args, kwargs = _copied(args, kwargs)
        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        # Some blocks write into what they are given, which has to be there a second time.
        args, kwargs = _copied(args, kwargs)
        return forward(*args, **kwargs)

    return run


def _copied(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return tuple(map(_copy, args)), {name: _copy(value) for name, value in kwargs.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor) and value.requires_grad:
        return value.clone()
    return dict(value) if isinstance(value, dict) else value
