"""J v by one more forward pass: the finite difference that replaces the backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .contracts import Denoiser
from .shapes import Latents, PerSample
from .ve import per_sample

# RMS of the step relative to the noise level: large enough to stand out of the rounding of the
# denoiser's dtype, small enough to stay in its linear regime.
RELATIVE_STEP = {torch.float32: 0.01, torch.float64: 0.01, torch.float16: 0.05}
BFLOAT16_STEP = 0.1  # and whatever else is coarser than float16
SMALLEST_SCALE = 0.1  # below this noise level the step no longer shrinks with it
# Noise predictors return D = x - sigma * output, so the rounding of D grows with sigma while J
# falls as 1 / sigma^2: there the relative step grows with sigma^2, up to a limit.
GROWTH = {torch.float16: 0.001}
BFLOAT16_GROWTH = 0.006
LARGEST_RELATIVE_STEP = 0.5
# Where D itself is rounded to half precision, the difference is mostly rounding below this noise
# level. J tends to the identity there, so v itself is used (the shift without the Jacobian).
HALF_PRECISION_FLOOR = 0.3


@dataclass(frozen=True)
class DifferenceStep:
    """The step h of (D(x + h v) - D(x)) / h, per sample.

    Attributes:
        relative: RMS(h v) = relative * max(sigma_ve, 0.1); None takes it from the denoiser's dtype.
        absolute: the paper's epsilon, the same h for all samples and noise levels; None is off.
        dtype: what the denoiser computes in, not what it returns.
        output_gain: what the network's output is multiplied by to make D, at noise levels 0.1 and
            10: (0.1, 10) for noise prediction, (1, 1) where D itself is the output.
        full: the full step, h = sigma_ve^2. Then sigma_ve^2 J v stands for
            D(x + sigma_ve^2 v) - D(x): one difference, no derivative. For a log w with the slope v
            everywhere this is exact, whatever p is: the posterior of x0 at x, times exp(v . x0), is
            the posterior at x + sigma_ve^2 v. Nor is rounding divided by a small step: its error in
            the shift is no more than D's own. Not in the paper.
        max_step: greatest length of a full step in standard deviations of the noise: the length of
            sigma_ve v. A network knows nothing of what lies further (the noise of an image of SD
            at 512 pixels is 128 of them long), and sensible weights take 1 to 10, except where a
            zero-terminal-SNR model starts: what is shortened there is ``continued``.
    """

    relative: float | None = None
    absolute: float | None = None
    dtype: torch.dtype = torch.float32
    output_gain: tuple[float, float] = (1.0, 1.0)
    full: bool = False
    max_step: float = 30.0

    def __post_init__(self) -> None:
        for name in ("relative", "absolute", "max_step"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} step is {value}; expected a finite number above 0.")

    def within_max_step(self, v: Latents, sigma_ve: PerSample) -> Latents:
        """v, shortened per sample where sigma_ve^2 v would be longer than ``max_step``."""
        if not self.full:
            return v
        share = self.max_step / self._length(v, sigma_ve).clamp(min=1e-30)
        return v.float() * per_sample(share.clamp(max=1), v)

    def continued(self, v: Latents, sigma_ve: PerSample, j: PerSample) -> PerSample:
        """The factor from the shift of a shortened step to that of the full step, [B].

        J v goes on along a line: as far as v was shortened, but to no more than ``max_step``
        standard deviations of the noise, now in the shift, which is j times as long as the step.
        At high noise j is tiny and nothing is lost; where j is 1 (low noise, or a network whose J
        is no covariance) the shortened step stands.

        Args:
            v: [B, ...] the gradient of log w itself.
            sigma_ve: [B].
            j: [B] J along the shift.
        """
        if not self.full:
            return torch.ones_like(j)
        wanted = (self._length(v, sigma_ve) / self.max_step).clamp(min=1)
        return torch.minimum(wanted, (1 / j.clamp(min=1e-30)).clamp(min=1))

    def _length(self, v: Latents, sigma_ve: PerSample) -> PerSample:
        """Of the full step, in standard deviations of the noise, [B]."""
        return sigma_ve.float() * rms(v) * math.sqrt(v[0].numel())

    @property
    def is_half(self) -> bool:
        """Whether the denoiser computes in less than float32."""
        return self.dtype not in (torch.float32, torch.float64)

    def is_below_rounding(self, sigma_ve: PerSample) -> Tensor:
        """Where the difference would be mostly rounding: [B] booleans."""
        if self.is_half and self.output_gain[0] > 0.5 and self.absolute is None:
            return sigma_ve < HALF_PRECISION_FLOOR
        return torch.zeros_like(sigma_ve, dtype=torch.bool)

    def _relative(self, sigma_ve: PerSample) -> PerSample:
        """RMS(h v) over max(sigma_ve, 0.1), [B]."""
        if self.relative is not None:
            return torch.full_like(sigma_ve, self.relative, dtype=torch.float32)
        least = RELATIVE_STEP.get(self.dtype, BFLOAT16_STEP)
        if not self.is_half or self.output_gain[1] < 2:
            return torch.full_like(sigma_ve, least, dtype=torch.float32)
        growing = GROWTH.get(self.dtype, BFLOAT16_GROWTH) * sigma_ve.float() ** 2
        return growing.clamp(least, LARGEST_RELATIVE_STEP)

    def size(self, v: Latents, sigma_ve: PerSample) -> PerSample:
        """h [B] for directions v [B, ...]; 0 where v is 0."""
        if self.absolute is not None:
            return torch.full_like(sigma_ve, self.absolute, dtype=torch.float32)
        norm = rms(v)
        if self.full:
            return torch.where(norm > 0, sigma_ve.float() ** 2, 0.0)
        scale = self._relative(sigma_ve) * sigma_ve.float().clamp(min=SMALLEST_SCALE)
        # A vanishing gradient may take a shorter step: the full one would leave float32.
        return torch.where(norm > 0, scale / norm.clamp(min=1e-30), 0.0)


def rms(values: Latents) -> PerSample:
    """Root mean square over everything but the batch: [B, ...] -> [B], float32."""
    flat = values.float().flatten(1)
    # The largest entry is divided out first: 1e4 times a gradient, squared, can leave float32.
    peak = flat.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return (flat / peak[:, None]).square().mean(dim=1).sqrt() * peak


def jacobian_vector_product(
    denoiser: Denoiser, x: Latents, sigma_ve: PerSample, denoised: Latents, v: Latents, h: PerSample
) -> Latents:
    """J v = [D(x + h v) - D(x)] / h, the finite difference of LAGS (eq. 13) in denoised form.

    Args:
        denoiser: D, called once.
        x: [B, ...] noisy sample, variance-exploding.
        sigma_ve: [B].
        denoised: D(x), already known.
        v: [B, ...] direction.
        h: [B] step; a sample with h = 0 gets J v = 0.

    Returns:
        [B, ...] float32.
    """
    step = per_sample(h, x)
    moved = denoiser((x.float() + step * v.float()).to(x.dtype), sigma_ve)
    difference = moved.float() - denoised.float()
    return torch.where(step != 0, difference / torch.where(step != 0, step, 1.0), 0.0)
