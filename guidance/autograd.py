"""Backward passes: J^T v of a denoiser that autograd can follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .contracts import Denoiser, Pull
from .shapes import Latents, PerSample


class AutogradDenoiser:
    """A denoiser of plain torch operations as a ``DifferentiableDenoiser``.

    Keeps the graph of ``vjp`` until its map is called.

    Args:
        denoiser: D; must not detach.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, x: Latents, sigma_ve: PerSample) -> Latents:
        """D(x)."""
        return self.denoiser(x, sigma_ve)

    def vjp(self, x: Latents, sigma_ve: PerSample) -> tuple[Latents, Pull]:
        """(D(x), the map from v to J^T v, to be called once)."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            denoised = self.denoiser(leaf, sigma_ve.clone())

        def pull(v: Latents) -> Latents:
            with torch.inference_mode(False):
                cotangent = v.detach().clone().to(denoised.dtype)
                (gradient,) = torch.autograd.grad(denoised, leaf, cotangent)
            return gradient

        return denoised.detach(), pull


def scaled_vjp(
    output: Tensor, leaf: Tensor, v: Tensor, size: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """J^T v through a graph in half precision, which a small v would underflow in.

    Args:
        output: what autograd made of ``leaf``, of any dtype.
        leaf: what the gradient is taken of.
        v: [B, ...] like ``output``.
        size: v -> [B, 1, ...] what it is divided by on its way; the largest entry of each sample
            unless something else is given. A sample of zeros stays zero.

    Returns:
        Like ``leaf``, float32.
    """
    v = v.detach()
    scale = (size or largest_entry)(v)
    scale = torch.where(scale > 0, scale, 1.0)
    (gradient,) = torch.autograd.grad(output, leaf, (v / scale).to(output.dtype))
    return gradient.float() * scale.to(gradient.device)


def largest_entry(v: Tensor) -> Tensor:
    """The greatest absolute value of each sample, [B, 1, ...]."""
    return v.abs().amax(dim=tuple(range(1, v.ndim)), keepdim=True)
