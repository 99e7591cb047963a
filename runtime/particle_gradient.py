"""Gradients through a diffusion model that ComfyUI loaded, for all particles, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from .autograd_safe import autograd_safe
from .model_gradient import _frozen, recomputed
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
                    inside.enter_context(recomputed(network))
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
