"""What the coarse steps of a sampler leave of a shift, and what a run remembers for that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import Latents, PerSample
from .ve import per_sample

# Above 1 where modes part: there a step ends in another one. None of the closed forms of
# ``bench exact`` changes by more than 3 % for 2 or more; a network whose J is no covariance can
# give any number.
MOST_SLOPE = 2.0


def slope_along(v: Latents, full_shift: Latents, sigma_ve: PerSample) -> PerSample:
    """j = <J v, J v> / <v, J v>, [B]: J where the shift is.

    Not where v has parts that J takes away, as <v, J v> / <v, v> would. 0 where <v, J v> is not
    positive, which an exact J never is.

    Args:
        v: [B, ...] gradient of log w.
        full_shift: [B, ...] sigma^2 J v.
        sigma_ve: [B].
    """
    gain = (v.float() * full_shift).flatten(1).sum(dim=1) * sigma_ve.float() ** 2
    j = full_shift.flatten(1).square().sum(dim=1) / gain.clamp(min=1e-30)
    return torch.where(gain > 0, j, 0.0).nan_to_num(posinf=MOST_SLOPE).clamp(0, MOST_SLOPE)


def noisy_step(keep: float, before: float, j: PerSample) -> PerSample:
    """How much of the full shift a step takes if the sampler draws noise, [B].

    The step is x' = D + keep (x - D) + s xi, and s^2 = keep (sigma^2 - sigma'^2) where
    keep = (sigma' / sigma)^2. What such a chain draws is tilted by w if the mean of each kernel
    moves by s^2 times the gradient of log E[w | x'] (Doob's h-transform). That gradient is J v at
    x', which nobody knows before x' is drawn; at x' the move is (1 - keep) of the full shift there.
    So each step makes up for the one that led to it: mu = (1 - before) full shift is to be added
    to x, which adds j mu to D. The sampler takes no x, but a D that brings it to the same place:
    keep (x + mu) + (1 - keep) (D + j mu) is reached by D + (j + keep / (1 - keep)) mu.

    Exact if the data are Gaussian, for any steps; that J falls from step to step, faster than a
    Gaussian's where modes part, is measured. It goes to 1 as the steps get finer. Fresh noise
    around D alone (LCM's sampler) is keep = 0. Of a distilled model J is the derivative of a
    finished image, and the same holds. Not in the paper.

    Args:
        keep: what the step keeps of x - D, below 1; 0 in the last.
        before: what the step that led here kept; 1 after none, where x is drawn from w p.
        j: [B] J along the shift.
    """
    return (1 - before) * (j + keep / (1 - keep))


def plain_step(keep: float, j: PerSample, left: PerSample) -> tuple[PerSample, PerSample]:
    """The same for Euler's step, which draws no noise, and what is left of the variance: [B] each.

    The step is x' = D + r (x - D), keep = r = sigma' / sigma. Along the shift it multiplies x by
    m = j + r (1 - j), and the variance of Gaussian data by m^2; the exact flow multiplies that by
    d = j + r^2 (1 - j), which is more. So samples end with a share u = m^2 / d (product over the
    steps) of the data's variance, and log w = b x is to move their mean by u b times the variance.
    The full shift leaves it at b times the variance; u r m / d of it makes it follow u. Not in the
    paper.

    Args:
        keep: as above.
        j: [B] J along the shift.
        left: [B] u before this step.
    """
    multiplied, flow = j + keep * (1 - j), (j + keep**2 * (1 - j)).clamp(min=1e-30)
    return left * keep * multiplied / flow, left * multiplied**2 / flow


@dataclass
class RunState:
    """What a run remembers from one evaluation to the next.

    Attributes:
        keep: what the last step kept of x - D; 1 where x was just drawn from w p, None where
            nobody knows.
        left: [B] what is left of the variance, see ``plain_step``; None for all of it.
        v: [B, ...] gradient of log w at the D of the last guided step.
        shift: [B, ...] that the last guided evaluation found, before its correction; None for none.
        sigma_ve: [B] where that was.
        j: [B] J along it.
    """

    keep: float | None = None
    left: PerSample | None = None
    v: Latents | None = None
    shift: Latents | None = None
    sigma_ve: PerSample | None = None
    j: PerSample | None = None

    def share(
        self, keep: float, draws_noise: bool, j: PerSample, distilled: Tensor | None = None
    ) -> PerSample:
        """How much of the shift the sampler's next step takes, [B]; to be asked once a step.

        Args:
            keep: what that step keeps of x - D; 1 of a sampler that is not known.
            draws_noise: whether it draws noise.
            j: [B] J along the shift.
            distilled: [B] whether D is a finished image; None where it is not. A step without
                noise has nothing to tilt there.
        """
        before, self.keep = keep if self.keep is None else self.keep, keep
        if keep < 1 and draws_noise:
            return noisy_step(keep, before, j)
        share = torch.ones_like(j)
        if keep < 1:
            left = self.left
            if left is None or left.shape != j.shape:
                # Noise of variance sigma^2 is 1 - j of what x has where it belongs to an image.
                left = (1 - j).clamp(min=0) if before == 1 else share
            share, self.left = plain_step(keep, j, left)
        return share if distilled is None else torch.where(distilled, 0.0, share)

    def midway(self, v: Latents) -> Latents:
        """The gradient of log w to tilt a noisy step by that led here, [B, ...].

        Where log w is curved, a tilt narrows the kernel (or widens it): for a gradient that falls
        by a s along a noise of s, to s / sqrt(1 + a s^2), about s - a s^3 / 2. Adding s^2 times the
        gradient at the point that was drawn makes it s - a s^3, twice as much. The mean of that
        gradient and the one at the kernel's mean is right, and D there is D of the step before.

        Args:
            v: [B, ...] at the point that was drawn.
        """
        before, self.v = self.v, v
        return v if before is None or before.shape != v.shape else (v + before) / 2

    def cache(self, shift: Latents, sigma_ve: PerSample, j: PerSample) -> None:
        """Note the shift of a guided evaluation."""
        self.shift, self.sigma_ve, self.j = shift, sigma_ve.float(), j

    def cached(self, x: Latents, sigma_ve: PerSample) -> tuple[Latents, PerSample] | None:
        """The cached shift at a lower noise level, and J along it; None where there is none.

        Of Gaussian data sigma^2 J falls as s^2 sigma^2 / (s^2 + sigma^2), with the variance s^2
        that j says, so nothing is evaluated for it.
        """
        if self.shift is None or self.sigma_ve is None or self.j is None:
            return None
        if self.shift.shape != x.shape:
            return None  # the sampler has enlarged x
        keep = (sigma_ve.float() / self.sigma_ve) ** 2
        fall = (self.j + (1 - self.j) * keep).clamp(min=1e-30)
        share = torch.where(keep <= 1, keep / fall, 0.0)
        return per_sample(share, x) * self.shift, (self.j / fall).clamp(0, MOST_SLOPE)
