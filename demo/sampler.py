"""The demo's sampler: noise levels and ancestral steps, plain or guided, on any denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..guidance import (
    Balanced,
    CachedGradient,
    Denoiser,
    LogWeight,
    Method,
    PathWeights,
    RunState,
    Step,
    Trace,
    ancestral_keep,
)


def karras_sigmas(steps: int, low: float, high: float) -> Tensor:
    """steps + 1 noise levels from high to low, then 0 (Karras et al. 2022, eq. 5, rho = 7)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def sample_ancestral(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Ancestral sampling: each step draws from the exact posterior of the next noise level.

    Args:
        denoiser: (x, sigma [B]) -> denoised.
        x: [B, ...] noise of standard deviation ``sigmas[0]``.
        sigmas: falling noise levels, the last may be 0.
        generator: source of the steps' noise.
    """
    for sigma, lower in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        denoised = denoiser(x, x.new_full((x.shape[0],), sigma))
        keep = (lower / sigma) ** 2
        spread = lower * math.sqrt(max(0.0, 1 - keep))
        x = denoised + keep * (x - denoised)
        if spread > 0:
            x = x + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


def tilted(
    method: Method,
    base: Denoiser,
    log_weight: LogWeight,
    x: Tensor,
    sigma: Tensor,
    trace: Trace,
    state: RunState | None = None,
    path: PathWeights | None = None,
) -> Tensor:
    """Initial noise x [B, ...] of standard deviation sigma, tilted where the method does that.

    ``state`` and ``path`` are those of the run that begins; ``guided`` takes them too.
    """
    if not isinstance(method, Balanced) or not method.tilts_start:
        return x
    step = Step(state=state or RunState())
    moved, record = method.tilted_start(base, log_weight, x, sigma.expand(x.shape[0]), step)
    trace.add_start(record)
    if path is not None:
        path.start(x / sigma, (moved - x) / sigma)
    return moved


def guided(
    method: Method,
    base: Denoiser,
    log_weight: LogWeight,
    sigmas: Tensor,
    trace: Trace,
    state: RunState | None = None,
    path: PathWeights | None = None,
) -> Denoiser:
    """The denoiser of ancestral steps along ``sigmas``, guided; its records go into ``trace``.

    They say what each image counts if ``path`` is given.
    """
    state = state or RunState()

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        keep, before = ancestral_keep(sigmas, float(sigma[0])), getattr(log_weight, "computed", 0)
        step = Step(keep, state=state)
        denoised, record = method(base, log_weight, x, sigma, step)
        if path is not None:
            plain = step.denoise(base, x, sigma)
            record = record.weighed(path.step(x, plain, denoised, float(sigma[0]), keep))
        if isinstance(log_weight, CachedGradient):
            record = replace(record, weight_calls=log_weight.computed - before)
        trace.add(record)
        return denoised

    return denoiser
