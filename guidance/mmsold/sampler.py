"""MM-SOLD: new points from a set of points, by Langevin steps under a moment constraint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..shapes import PerPoint, Points
from .bandwidth import Bandwidth
from .moments import Moments, retract, tangent
from .score import SmoothedScore, noise

OnStep = Callable[[int, Points], None]
ROUNDING = 0.01  # of a logit, up to which float32 is enough
STABLE = 0.5  # step size in units of the narrowest well's curvature; the paper's are 0.05 to 1.25


@dataclass(frozen=True)
class MMSOLD:
    """Moment-matched score-smoothed overdamped Langevin dynamics (Yao and Paulin 2026).

    B particles walk at once. Their mean and covariance are those of the blurred data at every step,
    which keeps smoothing from drawing them together:

        Y <- retract(Y - h P(grad V(Z) L) + sqrt(h / 2) P(xi_previous + xi)),   Z = mean + Y L^T

    P projects on the tangent space; the noise of two steps is averaged (Leimkuhler and Matthews
    2013), which makes the sampled law more accurate at the same step. Lengths are the data's own;
    the defaults are for data whose neighbours are 1 apart, as in ``PrincipalSpace``.

    Attributes:
        sigma_g: blur of each point, > 0. Working range 0.01 to 0.1.
        sigma: smoothing, >= 0. Two points are told apart while it is under half their distance:
            below 0.4 samples are mostly copies, above 1 all is blended. Working range 0.5 to 0.8.
            None for as little as leaves no more copies than there are among the data; the first
            half of the steps finds it, and the score is in float32 where that is enough.
        draws: shifts per particle and step, even. Published 2 to 32. 0 for no smoothing.
        steps: >= 0. Published 100 for images, 3000 in the plane.
        step: size h, > 0; None for half of what the narrowest well allows.
        nearest: 0 for the exact score, which in many dimensions blends points of different kinds,
            because shifts reach sigma * sqrt(d) far; else how many nearest points are summed for
            sure, and as many others are drawn for the rest. Published 20.
        constrained: False for plain smoothed Langevin steps, whose moments drift.
    """

    sigma_g: float = 0.05
    sigma: float | None = None
    draws: int = 8
    steps: int = 100
    step: float | None = None
    nearest: int = 20
    constrained: bool = True

    def __post_init__(self) -> None:
        for name, value in (("sigma_g", self.sigma_g), ("step", self.step)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected a finite number above 0.")
        if self.sigma is not None and not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma is {self.sigma}; expected a finite number, 0 (off) or more.")
        if self.draws < 0 or self.draws % 2:
            raise ValueError(
                f"draws is {self.draws}; expected an even number, because each draw comes with its "
                "opposite, or 0 for no smoothing."
            )
        for name, count in (("steps", self.steps), ("nearest", self.nearest)):
            if count < 0:
                raise ValueError(f"{name} is {count}; expected 0 or more.")

    def sample(
        self,
        data: Tensor,
        particles: int,
        seed: int,
        log_weights: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw new points [particles, d].

        Args:
            data: [n, d], floating point; computed in its dtype on its device.
            particles: B, at least d + 1.
            seed: one seed, one result.
            log_weights: [n] log w of each point, up to a constant: the samples follow w times the
                data. Any score will do, none needs a gradient. Not in the paper.
            on_step: called with the number of finished steps, from 0, and the particles [B, d]; may
                raise to stop.

        Raises:
            ValueError: too few particles or points, data or weights that are not finite.
        """
        shares = log_shares(data, log_weights)
        dimensions = data.shape[1]
        if particles < dimensions + 1:
            raise ValueError(
                f"{particles} particles cannot have a given covariance in {dimensions} dimensions; "
                f"expected at least {dimensions + 1}. Raise their number, or lower the rank to "
                f"{max(0, particles - 1)}."
            )
        moments = Moments.of(data, shares.exp(), self.sigma_g)
        bandwidth = None
        if self.sigma is None and self.draws:
            bandwidth = Bandwidth.of(data, shares.exp())
        score = self._score(data, shares)
        generator = torch.Generator().manual_seed(seed)
        y = self._start(data, shares.exp(), particles, generator)
        y = self._on_manifold(moments.to_standard(y))
        h = self._step_size(moments)
        previous = noise((particles, dimensions), generator, data)
        for done in range(self.steps + 1):
            z = moments.from_standard(y)
            if on_step is not None:
                on_step(done, z)
            if done == self.steps:
                break
            if bandwidth is not None and done <= self.steps // 2:
                score = self._steered(score, bandwidth, z, done)
            xi = noise((particles, dimensions), generator, data)
            drift = moments.pull_back(score(z.to(score.data), generator).to(data))
            move = math.sqrt(h / 2) * (previous + xi) - h * drift
            y = self._on_manifold(y + (tangent(y, move) if self.constrained else move))
            previous = xi
        return z

    def _on_manifold(self, y: Points) -> Points:
        return retract(y) if self.constrained else y

    def _score(self, data: Points, shares: PerPoint) -> SmoothedScore:
        """By the data's log-shares [n]; a sigma that is to be found begins at 0."""
        if self.sigma is None:
            largest = float(data.square().sum(dim=1).max()) / self.sigma_g**2
            if largest * torch.finfo(torch.float32).eps < ROUNDING:
                data, shares = data.float(), shares.float()
        sigma, count = self.sigma or 0.0, self.nearest
        return SmoothedScore(data, shares, self.sigma_g, sigma, self.draws, count, count)

    def _steered(
        self, score: SmoothedScore, bandwidth: Bandwidth, z: Points, done: int
    ) -> SmoothedScore:
        """The score with sigma for the next step: by the particles' distances, then held."""
        if done == self.steps // 2:
            return replace(score, sigma=bandwidth.settled)
        bandwidth.look(z)
        return replace(score, sigma=bandwidth.now)

    def _start(
        self, data: Tensor, shares: Tensor, particles: int, generator: torch.Generator
    ) -> Points:
        """Points of the data, each with its blur [B, d]."""
        shares = shares.to(generator.device)
        chosen = torch.multinomial(shares, particles, replacement=True, generator=generator)
        points = data[chosen.to(data.device)]
        return points + self.sigma_g * noise(tuple(points.shape), generator, points)

    def _step_size(self, moments: Moments) -> float:
        """h for Y: a well of curvature 1 / sigma_g^2 in Z has up to |L|^2 times that in Y."""
        if self.step is not None:
            return self.step
        return STABLE * self.sigma_g**2 / float(torch.linalg.matrix_norm(moments.factor, 2)) ** 2


def log_shares(data: Tensor, log_weights: Tensor | None) -> Tensor:
    """Log of the points' shares [n], summing to 1 in their exponentials.

    Raises:
        ValueError: data that are no [n, d] of finite numbers, or weights that do not belong to it.
    """
    if data.ndim != 2 or data.shape[0] < 2 or data.shape[1] < 1:
        raise ValueError(f"The data have shape {tuple(data.shape)}; expected [n >= 2, d >= 1].")
    if not data.isfinite().all():
        bad = int((~data.isfinite().all(dim=1)).sum())
        raise ValueError(f"{bad} of {len(data)} data points are not finite (NaN or infinite).")
    if log_weights is None:
        log_weights = data.new_zeros(len(data))
    log_weights = log_weights.to(data)
    if log_weights.shape != data.shape[:1]:
        raise ValueError(
            f"The log-weights have shape {tuple(log_weights.shape)}; expected one for each of "
            f"{len(data)} data points."
        )
    if log_weights.isnan().any() or not log_weights.max().isfinite():
        raise ValueError(
            "The log-weights hold NaN or +infinity, or are all -infinity; expected finite numbers "
            "(-infinity for points to leave out)."
        )
    return log_weights.log_softmax(dim=0)
