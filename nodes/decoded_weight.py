"""log w on latents: decode, score, and bring the gradient back through the decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ..guidance import AutogradLogWeight, LogWeight
from ..rewards import Weight
from .autograd_safe import autograd_safe

# Bytes that the decoder's backward needs, as a multiple of ComfyUI's own estimate of its forward
# (measured on the SD decoder: 22.8 kB against 8.7 kB per pixel in float32, and some room).
BACKWARD_FACTOR = 3.6


class DecodedLogWeight:
    """A ``LogWeight`` on model-space latents, through the user's VAE.

    Args:
        vae: ComfyUI's VAE object; loaded on its device while this is used.
        weight: log w on images.
        process_latent_out: model space -> the VAE's latent space, affine element by element.

    Attributes:
        terms: what the last gradient was taken of, factor by factor: log w [B], on the CPU.
    """

    terms: dict[str, Tensor]

    def __init__(
        self, vae: Any, weight: Weight, process_latent_out: Callable[[Tensor], Tensor]
    ) -> None:
        self.vae, self.weight, self.process_latent_out = vae, weight, process_latent_out
        self.name, self.terms = weight.name, {}
        self._by_term: list[Tensor] = []
        self.on_images = AutogradLogWeight(self._noted, weight.name)
        self.offset, self.gain = _affine_part(vae.process_output)

    def images(self, latents: Tensor) -> Tensor:
        """The VAE's latents [B, C, h, w] -> images [B, 3, H, W] about 0..1, float32, not clamped.

        Without the clamp a pixel that has left the range keeps its gradient back.
        """
        vae = self.vae
        on_device = getattr(mm, "cuda_device_context", nullcontext)
        with on_device(vae.device):
            decoded = vae.first_stage_model.decode(latents.to(vae.device, vae.vae_dtype))
        return decoded.float() * self.gain + self.offset

    def _noted(self, images: Tensor) -> Tensor:
        """log w [B] of images, its factors noted."""
        by_term = self.weight.by_term(images)
        if by_term.ndim == 2:  # else a weight that breaks its contract, which is said later
            self._by_term.append(by_term.detach().float().cpu())
        return by_term.sum(dim=0)

    def __call__(self, denoised: Tensor) -> Tensor:
        """log w [B] of model-space latents."""
        latents = self.process_latent_out(denoised.float())
        values = [self.weight(self.images(part)) for part in latents.split(self._rows(latents))]
        return torch.cat(values).to(denoised.device)

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], gradient like ``denoised``), float32, on its device.

        Raises:
            WeightError: the weight's shape is wrong, or it has no gradient.
            torch.cuda.OutOfMemoryError: the decoder's backward does not fit, not even one picture
                at a time.
        """
        # process_latent_out is affine, so its derivative is a difference, taken without autograd:
        # some formats keep constants that autograd would refuse.
        zero = torch.zeros_like(denoised, dtype=torch.float32)
        slope = self.process_latent_out(zero + 1) - self.process_latent_out(zero)
        latents = self.process_latent_out(denoised.float())
        log_w, grad = self._as_memory_allows(latents)
        self.terms = dict(zip(self.weight.labels, torch.cat(self._by_term, dim=1), strict=True))
        return log_w.to(denoised.device), grad.to(denoised.device) * slope

    def bytes_per_picture(self, latent_shape: torch.Size) -> float:
        """Memory for decoder and backward of one picture."""
        shape = (1, *latent_shape[1:])
        return BACKWARD_FACTOR * float(self.vae.memory_used_decode(shape, self.vae.vae_dtype))

    def _rows(self, latents: Tensor) -> int:
        patcher, device = self.vae.patcher, self.vae.device
        # Newer ComfyUI counts what dynamic VRAM can give back, in the patcher's own answer.
        own = getattr(patcher, "get_free_memory", None)
        free = own(device) if own is not None else mm.get_free_memory(device)
        needed = max(1.0, self.bytes_per_picture(latents.shape))
        return int(min(max(1, free // needed), latents.shape[0]))

    def _as_memory_allows(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """All pictures in as few parts as fit; on failure once more, one at a time."""
        rows = self._rows(latents)
        done = self._try_in_parts(latents, rows)
        if done is None and rows > 1:
            # Only here, outside of the failed attempt, is its graph gone from memory.
            logging.warning(
                "LAGS: not enough memory for the gradient of %d pictures at once; "
                "trying one at a time.",
                rows,
            )
            mm.soft_empty_cache()
            done = self._try_in_parts(latents, 1)
        if done is None:
            needed = self.bytes_per_picture(latents.shape) / 2**30
            # ComfyUI's own kind of error, so that it unloads its models as for any other node.
            raise torch.cuda.OutOfMemoryError(
                f"The gradient through the VAE needs about {needed:.1f} GB for one picture, and "
                f"{mm.get_free_memory(self.vae.device) / 2**30:.1f} GB are free. Make the picture "
                "smaller, use a smaller decoder (TAESD), or close other programs on the GPU."
            )
        return done

    def _try_in_parts(self, latents: Tensor, rows: int) -> tuple[Tensor, Tensor] | None:
        """(log_w, gradient), or None where memory ran out."""
        self._by_term = []
        try:
            with autograd_safe(self.vae.first_stage_model):
                parts = [self._value_and_grad(part) for part in latents.split(rows)]
        except torch.cuda.OutOfMemoryError:
            return None
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _value_and_grad(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = latents.detach().clone().requires_grad_()
            images = self.images(leaf)
            log_w, grad = self.on_images.value_and_grad(images)
            # The gradient of one pixel is tiny; divided by its largest entry, picture by picture,
            # it does not underflow in a decoder of half precision.
            peak = grad.abs().amax(dim=(1, 2, 3), keepdim=True)
            peak = torch.where(peak > 0, peak, 1.0)
            (pulled,) = torch.autograd.grad(images, leaf, grad / peak)
        return log_w, pulled.float() * peak.to(pulled.device)


class MaskedLogWeight:
    """A log-weight that moves only a part of the picture.

    Args:
        inner: log w on whole pictures.
        mask: [B or 1, 1, h, w], 1 where the picture may move.
        kept: [B, C, h, w], model space: what inner sees outside of the mask; None for what is
            there.
    """

    def __init__(self, inner: LogWeight, mask: Tensor, kept: Tensor | None = None) -> None:
        self.inner, self.mask, self.kept = inner, mask, kept
        self.name = inner.name

    def _blend(self, denoised: Tensor) -> Tensor:
        if self.kept is None:
            return denoised
        return denoised * self.mask + self.kept * (1 - self.mask)

    def __call__(self, denoised: Tensor) -> Tensor:
        """log w [B] of the blended pictures."""
        return self.inner(self._blend(denoised))

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], gradient), the gradient 0 outside of the mask."""
        log_w, grad = self.inner.value_and_grad(self._blend(denoised))
        return log_w, grad * self.mask


def _affine_part(process_output: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Offset and gain of a VAE's output map, without its clamp: probed where nothing is clamped."""
    at_zero = float(process_output(torch.zeros(1, 1, 1, 1)).mean())
    at_quarter = float(process_output(torch.full((1, 1, 1, 1), 0.25)).mean())
    return at_zero, (at_quarter - at_zero) / 0.25
