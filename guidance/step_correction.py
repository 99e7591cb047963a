"""What the coarse steps of a sampler leave of a shift, and how long a measured one serves."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .finite_difference import rms
from .shapes import Latents, PerSample
from .ve import chosen, per_sample

# Above 1 where modes part: there a step ends in another one. None of the closed forms of
# ``bench exact`` changes by more than 3 % for 2 or more; a network whose J is no covariance can
# give any number.
MOST_SLOPE = 2.0
MOST_SERVED = 1  # evaluations after the one that measured
SAME_LEVEL = 1 + 1e-4  # a noise level that went through exp(log) differs in its last digits
MOST_TREND = 2.0  # times what was foreseen, or its half: more is noise between two points


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


def falls(j: PerSample, keep: float | Tensor) -> tuple[PerSample, PerSample]:
    """By what J v is divided as the noise falls, j + keep (1 - j), and J along it there: [B] each.

    Exact for Gaussian data: sigma^2 J goes as s^2 sigma^2 / (s^2 + sigma^2), with the variance s^2
    that j says.

    Args:
        j: [B] J along v.
        keep: (sigma' / sigma)^2.
    """
    fall = (j + keep * (1 - j)).clamp(min=1e-30)
    return fall, (j / fall).clamp(0, MOST_SLOPE)


def is_spent(left: Any, served: Any, serves: float) -> Any:
    """Whether a measurement serves no longer, of one or of many.

    Args:
        left: of its noise level.
        served: evaluations that went on with it.
        serves: the share of its noise level down to which it does; 1 for not at all.
    """
    return (left <= serves) | (served >= MOST_SERVED)


@dataclass(frozen=True)
class Measurement:
    """What an evaluation with gradient, second evaluation and value has found, for later ones.

    Attributes:
        sigma_ve: [B].
        shift: [B, ...] with alpha and its limits, before it is made to fit a step.
        j: [B] J along it.
        alpha: [B].
        log_w: [B] at D.
        levels: [B] sigma_ve on the CPU.
        served: [B] evaluations that went on with it, likewise.
        trend: [B] log of how much greater the shift is than the measurement before had foreseen.
        span: [B] log of the fall of the noise level between the two, above 0.
    """

    sigma_ve: PerSample
    shift: Latents
    j: PerSample
    alpha: PerSample
    log_w: PerSample
    levels: PerSample
    served: PerSample
    trend: PerSample
    span: PerSample

    def passed_by(self) -> Measurement:
        """This one after an evaluation more that went on with it."""
        return replace(self, served=self.served + 1)

    def after(self, before: Measurement | None) -> Measurement:
        """This one with the trend since the one before, none where that was not at more noise.

        A shift is foreseen as that of Gaussian data, which comes true. Where modes part, or log w
        is convex, it outgrows that from one measurement to the next, and so it does afterwards.
        """
        if before is None or before.shift.shape != self.shift.shape:
            return self
        foreseen, _ = before.foreseen(self.sigma_ve)
        along = (foreseen * self.shift).flatten(1).sum(dim=1)
        length = foreseen.flatten(1).square().sum(dim=1)
        times = along / length.clamp(min=1e-30)
        trend = times.clamp(1 / MOST_TREND, MOST_TREND).log()
        span = (before.sigma_ve / self.sigma_ve).log()
        follows = (span > 1e-3) & (length > 0)
        return replace(self, trend=torch.where(follows, trend, 0.0), span=span.clamp(min=1e-3))

    def is_due(self, x: Latents, levels: PerSample, serves: float) -> Tensor:
        """Where another is due, after ``MOST_SERVED`` evaluations at the latest: [B] booleans.

        Args:
            x: [B, ...]; one of another size, which some samplers make of it, has none yet.
            levels: [B] sigma_ve on the CPU.
            serves: the share of its noise level down to which this one serves, 1 for not at all.
        """
        if self.shift.shape != x.shape:
            return torch.ones_like(levels, dtype=torch.bool)
        left = levels.float() / self.levels
        more_noise = left > SAME_LEVEL
        due: Tensor = is_spent(left, self.served, serves) | more_noise
        return due

    def now(self, sigma_ve: PerSample) -> tuple[Latents, PerSample]:
        """The shift at a lower noise level, and J along it; nothing is evaluated for them.

        The trend goes on for as long as it was seen, not into the late steps.
        """
        shift, j = self.foreseen(sigma_ve)
        elapsed = (self.sigma_ve / sigma_ve.float()).log() / self.span
        more = torch.where(elapsed <= 1, (self.trend * elapsed).exp(), 1.0)
        return per_sample(more, shift) * shift, j

    def foreseen(self, sigma_ve: PerSample) -> tuple[Latents, PerSample]:
        """The same as if the data were Gaussian."""
        keep = (sigma_ve.float() / self.sigma_ve) ** 2
        fall, j = falls(self.j, keep)
        share = torch.where(keep <= SAME_LEVEL**2, keep / fall, 0.0)
        return per_sample(share, self.shift) * self.shift, j

    def where(self, taken: Tensor, other: Measurement | None) -> Measurement:
        """This one for some samples, [B] booleans on the CPU, and another for the rest."""
        if other is None or other.shift.shape != self.shift.shape:
            none = torch.full_like(self.sigma_ve, 1e-6), torch.full_like(self.levels, 1e-6)
            other = replace(self, sigma_ve=none[0], levels=none[1])  # so one is due
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Measurement(*(chosen(taken, a, b) for a, b in pairs))


@dataclass(frozen=True)
class Start:
    """D at the run's initial noise, before that was moved.

    Attributes:
        x: [B, ...], ``sigma_ve`` [B] and ``denoised`` [B, ...] as they were.
        move: [B, ...] that x was to be moved by.
        j: [B] J along it.
    """

    x: Latents
    sigma_ve: PerSample
    denoised: Latents
    move: Latents
    j: PerSample

    def foreseen(self, x: Latents, sigma_ve: PerSample) -> Latents | None:
        """D at the moved x, D + j (x - what it was).

        None for the batch where any sample is further away than it was to be moved: D of all is
        evaluated together.
        """
        if x.shape != self.x.shape:
            return None
        moved = x.float() - self.x.float()
        near = rms(moved) <= 1.01 * rms(self.move) + 1e-3 * sigma_ve
        if not bool((near & (sigma_ve == self.sigma_ve)).all()):
            return None
        return (self.denoised.float() + per_sample(self.j, x) * moved).to(self.denoised.dtype)


@dataclass
class RunState:
    """What a run remembers from one evaluation to the next.

    Attributes:
        keep: what the last step kept of x - D, (sigma' / sigma)^2 if it drew noise and sigma' /
            sigma if not; 1 where x was just drawn from w p, None where nobody knows.
        left: [B] what is left of the variance, see ``plain_step``; None for all of it.
        v: [B, ...] gradient of log w at D, the last that was evaluated; None for none.
        since: [B] evaluations of the sampler since then, on the CPU.
        measured: the last measurement; None for none.
        start: of a run that has not begun; None of others.
    """

    keep: float | None = None
    left: PerSample | None = None
    v: Latents | None = None
    since: Tensor | None = None
    measured: Measurement | None = None
    start: Start | None = None

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

    def midway(self, v: Latents, active: Tensor) -> Latents:
        """The gradient of log w to tilt a noisy step by that led here, [B, ...].

        Where log w is curved, a tilt narrows the kernel (or widens it): for a gradient that falls
        by a s along a noise of s, to s / sqrt(1 + a s^2), about s - a s^3 / 2. Adding s^2 times the
        gradient at the point that was drawn makes it s - a s^3, twice as much. The mean of that
        gradient and the one at the kernel's mean is right, and D there is D of the step before. If
        that step took no gradient, its own is halfway between this one and the one before it.

        Args:
            v: [B, ...] at the point that was drawn.
            active: [B] where it is wanted, on the CPU. One before it that more than one step
                without a gradient has followed is left out, and this one taken alone.
        """
        before, since = self.v, self.since
        if before is None or since is None or before.shape != v.shape:
            self.v, self.since = v, torch.where(active, 0, MOST_SERVED + 1)
            return v
        self.v, self.since = chosen(active, v, before), torch.where(active, 0, since + 1)
        older = torch.where(since <= MOST_SERVED, 0.5 ** (since + 1.0), 0.0)
        share = per_sample(older.to(v), v)
        return (1 - share) * v + share * before

    def pass_by(self) -> None:
        """Note an evaluation of the sampler for which no gradient was taken."""
        if self.since is not None:
            self.since = self.since + 1
