"""What a particle run did, one record per step, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..shapes import Chosen, Due, GroupLatents, GroupWeights, PerGroup
from ..trace import plain
from .resampling import normalised

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Weighing:
    """What the weights were at one evaluation, before resampling; [G] tensors on the CPU.

    Attributes:
        ess: effective sample size, 1 to N.
        resampled: whether the group was resampled.
        temperature: lambda, 0 to 1.
        log_w_mean: mean log w of the denoised samples.
        log_w_quantiles: [G, 3], the values nearest to 5, 50 and 95 %.
        ancestors: [G, N], whose copy each particle is; None where no group was resampled.
    """

    ess: PerGroup
    resampled: Due
    temperature: PerGroup
    log_w_mean: PerGroup
    log_w_quantiles: Tensor
    ancestors: Chosen | None = None

    @classmethod
    def of(
        cls, log_w: GroupWeights, temperature: PerGroup, ess: PerGroup, resampled: Due
    ) -> Weighing:
        """Summarise log w [G, N]."""
        at = [round(quantile * (log_w.shape[1] - 1)) for quantile in QUANTILES]
        # torch.quantile is slow and limited in size.
        quantiles = log_w.sort(dim=1).values.index_select(1, torch.tensor(at))
        return cls(ess, resampled, temperature, log_w.mean(dim=1), quantiles)


@dataclass(frozen=True)
class ParticleRecord:
    """One step.

    Attributes:
        sigma_ve: noise level, variance-exploding units.
        weighing: None where the step weighed nothing.
        cost: [G] mean of |shift|^2 / (2 s^2), nats: what the drift spends.
        model_calls: forwards of the denoiser per particle.
        model_backwards: backward passes through it per particle.
        weight_calls: evaluations of the weight per particle.
        gradient_calls: of these, with its gradient.
        seconds: wall clock of the step.
    """

    sigma_ve: float
    weighing: Weighing | None
    cost: PerGroup
    model_calls: int
    model_backwards: int
    weight_calls: int
    gradient_calls: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        weighing = None if self.weighing is None else vars(self.weighing)
        return plain({**vars(self), "weighing": weighing})  # type: ignore[no-any-return]


@dataclass
class ParticleTrace:
    """The records of one run, in order.

    Attributes:
        records: one per step.
        final_weight_calls: evaluations of the weight per particle after the last step.
    """

    records: list[ParticleRecord] = field(default_factory=list)
    final_weight_calls: int = 0

    @property
    def model_calls(self) -> int:
        """Forwards of the denoiser per particle over the run."""
        return sum(record.model_calls for record in self.records)

    @property
    def model_backwards(self) -> int:
        """Backward passes through the denoiser per particle over the run."""
        return sum(record.model_backwards for record in self.records)

    @property
    def weight_calls(self) -> int:
        """Evaluations of the weight per particle over the run."""
        return self.final_weight_calls + sum(record.weight_calls for record in self.records)

    @property
    def resampled_steps(self) -> list[int]:
        """The steps at which any group was resampled."""
        return [step for step, _ in self._generations()]

    def roots(self, groups: int, particles: int) -> Chosen:
        """Which first particle each last one descends from: [G, N]."""
        line = torch.arange(particles).expand(groups, -1)
        for _, ancestors in self._generations():
            line = line.gather(1, ancestors)
        return line

    def _generations(self) -> Iterator[tuple[int, Chosen]]:
        """(step, ancestors [G, N]) wherever there was resampling."""
        for step, record in enumerate(self.records):
            if record.weighing is not None and record.weighing.ancestors is not None:
                yield step, record.weighing.ancestors

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {
            "final_weight_calls": self.final_weight_calls,
            "records": [record.to_dict() for record in self.records],
        }


@dataclass(frozen=True)
class Particles:
    """A weighted sample of w p from each group.

    Attributes:
        x: [G, N, ...] the last samples.
        log_w: [G, N] float64, log w of each sample.
        log_weights: [G, N] float64, what the sample counts; not normalised. Copies made by the
            last resampling start from 0, so this is not log w.
        log_normaliser: [G] float64, estimate of log E_p[w], unbiased before the log is taken.
        trace: what was done.
    """

    x: GroupLatents
    log_w: GroupWeights
    log_weights: GroupWeights
    log_normaliser: PerGroup
    trace: ParticleTrace

    @property
    def weights(self) -> GroupWeights:
        """[G, N], summing to 1 in each group."""
        return normalised(self.log_weights)

    @property
    def pooled_weights(self) -> GroupWeights:
        """[G, N], summing to 1 over all groups, each counted by its own estimate of E_p[w].

        The groups must be replicates of one target. This removes the error that a group of few
        particles makes by normalising its own weights.
        """
        share = self.log_normaliser.softmax(dim=0)
        return self.weights * share[:, None]
