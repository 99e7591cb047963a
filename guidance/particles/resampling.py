"""Which particles live on: four unbiased rules with one signature, and the weights' own arithmetic.

A rule is ``(log_weights [G, N], uniforms [G, N]) -> ancestors [G, N]``: G independent groups of N
particles, uniforms in [0, 1). Particle i of a group has N W_i copies on average, W normalised, and
none where W_i = 0. Everything is in float64 on the CPU: these are a few numbers per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..contracts import WeightError
from ..shapes import Chosen, GroupWeights, PerGroup

Resampling = Callable[[GroupWeights, GroupWeights], Chosen]


def systematic(log_weights: GroupWeights, uniforms: GroupWeights) -> Chosen:
    """One uniform and N evenly spaced marks per group: floor or ceiling of N W_i copies, nearly.

    Reads ``uniforms[:, 0]`` alone.
    """
    marks = torch.arange(log_weights.shape[1], dtype=torch.float64)
    return _at_marks(log_weights, (marks + uniforms[:, :1].cpu().double()) / marks.numel())


def stratified(log_weights: GroupWeights, uniforms: GroupWeights) -> Chosen:
    """One uniform in each of N equal strata."""
    marks = torch.arange(log_weights.shape[1], dtype=torch.float64)
    return _at_marks(log_weights, (marks + uniforms.cpu().double()) / marks.numel())


def multinomial(log_weights: GroupWeights, uniforms: Tensor) -> Chosen:
    """Independent draws, K of any size: the noisiest rule, as in URGE and FK-steering."""
    return _at_marks(log_weights, uniforms.cpu().double())


def ssp(log_weights: GroupWeights, uniforms: GroupWeights) -> Chosen:
    """Srinivasan's sampling process: floor or ceiling of N W_i copies, always. DAS uses it.

    Source: Gerber, Chopin, Whiteley, "Negative association, ordering and convergence of resampling
    methods", Annals of Statistics 2019.
    """
    shares = normalised(log_weights)
    rows = zip(shares.tolist(), uniforms.cpu().tolist(), strict=True)
    copies = torch.tensor([_ssp_copies(share, uniform) for share, uniform in rows])
    index = torch.arange(shares.shape[1])
    return torch.stack([index.repeat_interleave(row) for row in copies])


RESAMPLING: dict[str, Resampling] = {
    "systematic": systematic,
    "ssp": ssp,
    "stratified": stratified,
    "multinomial": multinomial,
}


def effective_sample_size(log_weights: GroupWeights) -> PerGroup:
    """(sum W)^2 / sum W^2 of each group: [G, N] -> [G], 1 to N, float64.

    Raises:
        WeightError: a group has no particle of positive weight, or a weight is not a number.
    """
    return 1 / normalised(log_weights).square().sum(dim=1)


def log_mean_weight(log_weights: GroupWeights) -> PerGroup:
    """The log of each group's mean weight: [G, N] -> [G], float64."""
    values = log_weights.cpu().double()
    return values.logsumexp(dim=1) - math.log(values.shape[1])


def normalised(log_weights: GroupWeights) -> GroupWeights:
    """Weights that sum to 1 in each group: [G, N] -> [G, N], float64 on the CPU.

    Raises:
        WeightError: a group has no particle of positive weight, or a weight is not a number.
    """
    values = log_weights.cpu().double()
    greatest = values.amax(dim=1).tolist()  # NaN where there is any
    if any(math.isnan(value) or value == math.inf for value in greatest):
        raise WeightError(
            "A particle's log-weight is NaN or +inf; expected a finite number, or -inf for weight "
            "0. Lower the strength of the weight function."
        )
    if -math.inf in greatest:
        raise WeightError(
            f"All {values.shape[1]} particles of group {greatest.index(-math.inf)} have weight "
            "zero, so none can be chosen. Use more particles, or a weight function that is zero "
            "nowhere."
        )
    return values.softmax(dim=1)


def _at_marks(log_weights: Tensor, marks: Tensor) -> Tensor:
    """The particles in whose stretch of the cumulative weights the marks [G, K] fall."""
    share = normalised(log_weights)
    total = share.cumsum(dim=1)
    # The first sum that is greater than the mark: a particle of weight 0 adds nothing to the sum
    # before it, so it is never the first. Rounding can leave every sum under the last mark; that
    # mark belongs to the last particle with any weight.
    found = torch.searchsorted(total, marks.contiguous(), right=True)
    last = share.shape[1] - 1 - (share > 0).flip(1).long().argmax(dim=1, keepdim=True)
    return torch.minimum(found, last)


def _ssp_copies(shares: list[float], uniforms: list[float]) -> list[int]:
    """How often each particle of one group is copied.

    Everyone has the whole part of N W_i for certain. The fractions meet in pairs: one of the two
    leaves with 0 or 1, at odds that keep both expectations, the other takes what remains to the
    next pair.
    """
    count = len(shares)
    copies = [math.floor(count * share) for share in shares]
    fractions = [count * share - whole for share, whole in zip(shares, copies, strict=True)]
    held = 0
    for other in range(1, count):
        a, b, u = fractions[held], fractions[other], uniforms[other]
        if a + b == 0:
            continue
        if a + b < 1:  # one of them takes both fractions, the other is done
            winner, loser = (held, other) if u < a / (a + b) else (other, held)
            fractions[winner], fractions[loser] = a + b, 0.0
            held = winner
        else:  # one of them takes a whole copy, the other keeps the rest
            full = 1.0 if a + b >= 2 else (1 - b) / (2 - a - b)
            winner, keeper = (held, other) if u < full else (other, held)
            copies[winner] += 1
            fractions[keeper], fractions[winner] = a + b - 1, 0.0
            held = keeper
    # 0 or 1: the last fraction is one of these, but for rounding.
    copies[held] += count - sum(copies)
    return copies
