"""Baselines that only choose: sample plainly, weigh what comes, keep the best.

Compare every method with these at the same number of model calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .contracts import LogWeight, checked_value
from .shapes import Latents, PerSample
from .ve import per_sample

Sample = Callable[[Latents], Latents]  # unit noise [B, ...] -> finished samples [B, ...], plainly
Draw = Callable[[], Latents]  # -> fresh unit noise [B, ...]
FINISHED = torch.zeros(1)  # the noise level at which samples are weighed


@dataclass(frozen=True)
class Found:
    """The best of each sample of a batch.

    Attributes:
        samples: [B, ...].
        log_w: [B], of these.
        noise: [B, ...], which led to them.
        model_calls: forwards of the denoiser per sample.
        value_calls: evaluations of the weight per sample.
    """

    samples: Latents
    log_w: PerSample
    noise: Latents
    model_calls: int
    value_calls: int

    def better_of(self, other: Found) -> Found:
        """Whichever is better, sample by sample; both were paid for. The earlier wins a tie."""
        better = other.log_w > self.log_w

        def pick(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(per_sample(better.to(ours.device), ours), theirs, ours)

        return Found(
            pick(self.samples, other.samples),
            pick(self.log_w, other.log_w),
            pick(self.noise, other.noise),
            self.model_calls + other.model_calls,
            self.value_calls + other.value_calls,
        )


def evaluate(sample: Sample, log_weight: LogWeight, noise: Latents, steps: int) -> Found:
    """One plain sample from each noise [B, ...], weighed; arguments as for ``best_of``."""
    samples = sample(noise)
    return Found(samples, checked_value(log_weight, samples, FINISHED), noise, steps, 1)


def best_of(sample: Sample, log_weight: LogWeight, draw: Draw, count: int, steps: int) -> Found:
    """The best of ``count`` plain samples, one by one.

    Args:
        sample: the plain sampler; what it draws on the way is its own affair.
        log_weight: log w; its gradient is not asked for.
        draw: initial noise.
        count: how many samples to choose from.
        steps: model calls of one run of the sampler.

    Raises:
        ValueError: count is below 1.
        WeightError: the weight broke its contract.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected 1 or more samples to choose from.")
    best = evaluate(sample, log_weight, draw(), steps)
    for _ in range(count - 1):
        best = best.better_of(evaluate(sample, log_weight, draw(), steps))
    return best


def zero_order_search(
    sample: Sample,
    log_weight: LogWeight,
    draw: Draw,
    rounds: int,
    neighbours: int,
    radius: float,
    steps: int,
) -> Found:
    """Better and better initial noise: neighbours of the best so far, the pivot, are tried.

    Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
    arXiv 2501.09732. A neighbour is cos(a) pivot + sin(a) fresh noise, tan(a) = radius: again unit
    noise, so that every sample tried is one that the model makes. The pivot is tried once.

    Args:
        sample: the plain sampler; should draw the same on the way each time.
        log_weight: log w; its gradient is not asked for.
        draw: fresh noise.
        rounds: how often the pivot may move.
        neighbours: tried in each round.
        radius: size of the fresh part relative to the pivot's; infinite is best of N.
        steps: as for ``best_of``.

    Raises:
        ValueError: a number out of range.
        WeightError: the weight broke its contract.
    """
    if rounds < 0 or neighbours < 1:
        raise ValueError(
            f"{rounds} rounds of {neighbours} neighbours; expected 0 or more rounds of 1 or more."
        )
    if not radius > 0:
        raise ValueError(f"radius is {radius}; expected above 0.")
    angle = math.atan(radius)
    kept, fresh = (0.0 if math.isinf(radius) else math.cos(angle)), math.sin(angle)
    best = evaluate(sample, log_weight, draw(), steps)
    for _ in range(rounds):
        pivot = best.noise
        for _ in range(neighbours):
            noise = kept * pivot + fresh * draw()
            best = best.better_of(evaluate(sample, log_weight, noise, steps))
    return best
