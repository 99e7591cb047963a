"""Finished samples in few steps, weighed: what LiDAR and searches look at before a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value
from ..shapes import Latents, Levels, PerSample


@dataclass(frozen=True)
class Lookahead:
    """Finished samples and their weights.

    Attributes:
        samples: [n, ...] for all samples of a batch, or [B, n, ...], a set for each.
        log_w: [n] or [B, n]; minus infinity is a weight of zero.
    """

    samples: Tensor
    log_w: Tensor

    def __post_init__(self) -> None:
        shape = self.log_w.shape
        if len(shape) not in (1, 2) or shape[-1] == 0 or self.samples.shape[: len(shape)] != shape:
            raise ValueError(
                f"Lookahead samples have shape {tuple(self.samples.shape)} and log-weights "
                f"{tuple(shape)}; expected [n, ...] and [n], or [B, n, ...] and [B, n]."
            )
        if bool(torch.isnan(self.log_w).any() or torch.isposinf(self.log_w).any()):
            raise ValueError("A lookahead sample's log-weight is NaN or plus infinity.")
        if bool(torch.isneginf(self.log_w).all(dim=-1).any()):
            raise ValueError(
                "Every lookahead sample has weight zero, so none says where to go: take more of "
                "them, or a weight that is not zero almost everywhere."
            )

    def each(self, batch: int, device: torch.device) -> Iterator[tuple[Latents, PerSample]]:
        """The set [n, ...] and its log-weights [n] of each sample of a batch, float32 there.

        What all share is copied to the device once.
        """
        if self.log_w.ndim == 1:
            own = self.samples.to(device, torch.float32), self.log_w.to(device, torch.float32)
            yield from repeat(own, batch)
            return
        for samples, log_w in zip(self.samples[:batch], self.log_w[:batch], strict=True):
            yield samples.to(device, torch.float32), log_w.to(device, torch.float32)


def look_ahead(denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigmas: Levels) -> Lookahead:
    """Plain samples in few steps, weighed.

    Args:
        denoiser: D, unguided.
        log_weight: log w; its gradient is not asked for.
        x: [n, ...] pure noise at level ``sigmas[0]``, variance-exploding.
        sigmas: [K + 1] falling, the last 0.

    Raises:
        WeightError: the weight broke its contract.
        ModelError: the model's output is not finite.
    """
    samples = few_steps(denoiser, x, sigmas)
    check_finite_model(samples, sigmas[-1:])
    log_w = checked_value(log_weight, samples, sigmas[-1:])
    return Lookahead(samples, log_w)


@torch.no_grad()
def few_steps(denoiser: Denoiser, x: Latents, sigmas: Levels) -> Latents:
    """The probability flow in few steps: DPM-Solver++(2M), arXiv 2211.01095.

    Args:
        denoiser: D.
        x: [B, ...] at noise level ``sigmas[0]``, variance-exploding.
        sigmas: [K + 1] falling, the last 0.
    """
    ones, levels = x.new_ones(x.shape[0]), sigmas.tolist()
    before: tuple[Latents, float] | None = None  # the last denoised sample, and its step in log
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        if lower == sigma:
            continue
        denoised = denoiser(x, sigma * ones)
        if lower == 0:
            return denoised
        step = math.log(sigma / lower)
        extrapolated = denoised
        if before is not None:
            earlier, last_step = before
            extrapolated = denoised + (denoised - earlier) * (step / (2 * last_step))
        x = x * (lower / sigma) - extrapolated * math.expm1(-step)
        before = denoised, step
    return x
