"""What a run did, one record per evaluation of the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .message import Message
from .path_weights import ess_share
from .shapes import Numbers, PerSample

SPENT = ("model_calls", "model_backwards", "weight_calls", "value_calls", "seconds")
LEAST_ESS = 2 / 3  # at which the mean of anything may be off by 0.7 standard deviations
FEWEST = 4  # images; the ESS of fewer says little


@dataclass(frozen=True)
class StepRecord:
    """One evaluation. Per-sample values are [B] tensors; None where the step was skipped.

    Attributes:
        sigma_ve: noise level, variance-exploding units.
        active: whether the step was guided.
        alpha: the schedule's factor, 0..1; above where log w bends up.
        log_w: log-weight of the denoised sample before the shift, nats; of an earlier one where a
            step reuses what that one has measured.
        predicted_gain: <v, sigma_ve^2 J v>, nats: what v predicts that log w gains by the full
            shift; also the posterior variance of the linearised log w, squared nats.
        shift_rms: RMS of the shift, latent units; of a skipped step where a cached one was taken.
        denoised_rms: RMS of the denoised sample, latent units.
        model_calls: forwards of the denoiser.
        weight_calls: evaluations of the weight with its gradient.
        seconds: wall clock of the evaluation.
        terms: log_w of each factor of the weight, by name, where the weight has factors.
        value_calls: evaluations of the weight without its gradient.
        actual_gain: the gain in log w by that shift, nats; None where it was not looked at.
        model_backwards: backward passes through the denoiser.
        ess: of each group of particles, as a share of their number, before they are resampled; of
            a batch on an ancestral sampler, [1]; None where nothing was weighed.
        resampled: whether each group was resampled, likewise.
        log_weights: log of what each image counts as a sample of w p so far, up to a constant, see
            ``weighed``; None where that is not known.
    """

    sigma_ve: Numbers
    active: bool
    alpha: Numbers | None
    log_w: Numbers | None
    predicted_gain: Numbers | None
    shift_rms: Numbers | None
    denoised_rms: Numbers | None
    model_calls: int
    weight_calls: int
    seconds: float
    terms: dict[str, Numbers] | None = None
    value_calls: int = 0
    actual_gain: Numbers | None = None
    model_backwards: int = 0
    ess: Numbers | None = None
    resampled: Tensor | None = None
    log_weights: Numbers | None = None

    @classmethod
    def skipped(cls, sigma_ve: PerSample, seconds: float) -> StepRecord:
        """A plain evaluation: one forward, nothing else."""
        return cls(sigma_ve, False, None, None, None, None, None, 1, 0, seconds)

    @property
    def has_evaluated(self) -> bool:
        """Whether log w is that of this evaluation, not reused from an earlier one."""
        looked = self.weight_calls > 0 or self.value_calls > 0
        return self.log_w is not None and (looked or self.predicted_gain is not None)

    def weighed(self, log_ratio: PerSample) -> StepRecord:
        """The record with what each image counts by now, where log w was evaluated.

        E[w] at a noise level is taken for w of the denoised image times exp(alpha * predicted gain
        / 2), as it is where the data are Gaussian and log w is a line.

        Args:
            log_ratio: [B] of the path, see ``PathWeights``.
        """
        if self.log_w is None or not self.has_evaluated:
            return self
        log_weights = log_ratio + self.log_w.float()
        if self.predicted_gain is not None and self.alpha is not None:
            log_weights = log_weights + self.alpha * self.predicted_gain / 2
        ess = ess_share(log_weights) if len(log_weights) > 1 else None
        return replace(self, log_weights=log_weights, ess=ess)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON; what was not measured is None."""
        return {name: plain(value) for name, value in vars(self).items()}


@dataclass
class Trace:
    """The records of one run, in the order of its evaluations.

    Attributes:
        label: what the run was, for plots that compare several.
        start: what was done before the first step: quick images, a tilt of the initial noise.
        records: one per evaluation of the sampler.
        strengths: strength of each factor of the weight, as used.
        measured: the names of those whose strength the run chose by itself.
        notes: warnings, in sentences.
        watcher: called with the trace whenever something was added, for what shows a run live.
        unrecorded: evaluations of the sampler at pure noise, of which there is nothing to tell.
        pending: the last record, until its tensors are copied with what is waited for anyway.
    """

    label: str = ""
    start: StepRecord | None = None
    records: list[StepRecord] = field(default_factory=list)
    strengths: dict[str, float] = field(default_factory=dict)
    measured: tuple[str, ...] = ()
    notes: list[Message] = field(default_factory=list)
    unrecorded: int = 0
    watcher: Callable[[Trace], None] | None = field(default=None, repr=False, compare=False)
    pending: StepRecord | None = field(default=None, repr=False, compare=False)

    def clear(self) -> None:
        """Forget what an earlier run left."""
        self.start = self.pending = None
        self.unrecorded = 0
        self.records.clear()
        self.strengths.clear()
        self.measured = ()
        self.notes.clear()
        self._notify()

    def add_start(self, record: StepRecord) -> None:
        """Note what was done before the first step, with what that cost so far."""
        if self.start is not None:
            spent = {name: getattr(self.start, name) + getattr(record, name) for name in SPENT}
            record = replace(record, **spent)
        with torch.inference_mode(False):
            self.start = _with(record, _on_cpu(_tensors(record)))
        self._notify()

    def add(self, record: StepRecord) -> None:
        """Append a record, its tensors moved to the CPU and freed from inference mode."""
        self.settle()
        self.pending = record
        self.settle()

    def settle(self, *beside: Tensor) -> list[Tensor]:
        """Append the pending record, if there is one; copies of other tensors come with it.

        Returns:
            ``beside`` in float32 on the CPU, waited for once in all.
        """
        record, self.pending = self.pending, None
        found = [] if record is None else _tensors(record)
        with torch.inference_mode(False):
            copies = _on_cpu([*beside, *found])
        if record is not None:
            self.records.append(_with(record, copies[len(beside) :]))
            self._notify()
        return copies[: len(beside)]

    def _notify(self) -> None:
        if self.watcher is not None:
            self.watcher(self)

    @property
    def _all(self) -> list[StepRecord]:
        return [*([self.start] if self.start else []), *self.records]

    @property
    def model_calls(self) -> int:
        """Forwards of the denoiser over the run."""
        return self.unrecorded + sum(record.model_calls for record in self._all)

    @property
    def model_backwards(self) -> int:
        """Backward passes through the denoiser over the run."""
        return sum(record.model_backwards for record in self._all)

    @property
    def weight_calls(self) -> int:
        """Evaluations of the weight with its gradient over the run."""
        return sum(record.weight_calls for record in self._all)

    @property
    def value_calls(self) -> int:
        """Evaluations of the weight without its gradient over the run."""
        return sum(record.value_calls for record in self._all)

    @property
    def seconds(self) -> float:
        """Wall clock inside the guided denoiser over the run."""
        return sum(record.seconds for record in self._all)

    @property
    def log_weights(self) -> Tensor | None:
        """What each image counted when log w was last looked at, [B]; None where nobody knows."""
        known = [record.log_weights for record in self.records if record.log_weights is not None]
        return known[-1] if known else None

    @property
    def no_sample(self) -> Message | None:
        """Why the batch is no sample of w p, in a sentence; None where nothing says so."""
        count = 0 if self.log_weights is None else len(self.log_weights)
        if self.log_weights is None or count < FEWEST:
            return None
        ess = float(ess_share(self.log_weights))
        if not ess < LEAST_ESS:
            return None
        return Message(
            "no_sample",
            "The effective sample size of these {count} images is {percent} % of them: they are "
            "not a sample of w p, and a mean over them may be off by up to {deviations} standard "
            "deviations. The Particle KSampler draws one; a lower strength comes nearer.",
            {
                "count": count,
                "percent": round(100 * ess),
                "deviations": round(math.sqrt(1 / ess - 1), 1),
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {
            "label": self.label,
            "no_sample": None if self.no_sample is None else str(self.no_sample),
            "strengths": dict(self.strengths),
            "measured": list(self.measured),
            "start": self.start.to_dict() if self.start else None,
            "records": [record.to_dict() for record in self.records],
        }


def _tensors(record: StepRecord) -> list[Tensor]:
    """All tensors of a record, in order."""
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(vars(record), noted)
    return found


def _with(record: StepRecord, tensors: list[Tensor]) -> StepRecord:
    """A record with other tensors in the places of its own."""
    others = iter(tensors)
    return StepRecord(**_mapped(vars(record), lambda _: next(others)))


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or each in a dictionary, through a function; anything else as it is."""
    if isinstance(value, dict):
        return {name: _mapped(item, function) for name, item in value.items()}
    return function(value) if isinstance(value, Tensor) else value


def _on_cpu(tensors: list[Tensor]) -> list[Tensor]:
    """Copies in float32, from each device all at once: the GPU is waited for a single time."""
    copies: dict[int, Tensor] = {}
    for device in {tensor.device for tensor in tensors}:
        mine = [i for i, tensor in enumerate(tensors) if tensor.device == device]
        flat = torch.cat([tensors[i].detach().float().flatten() for i in mine]).cpu()
        parts = torch.split(flat, [tensors[i].numel() for i in mine])
        copies |= {i: part.view(tensors[i].shape) for i, part in zip(mine, parts, strict=True)}
    return [copies[i] for i in range(len(tensors))]


def plain(value: Any) -> Any:
    """Tensors as lists of numbers, also in a dictionary: ready for JSON.

    That knows finite numbers only: others, as log w of a weight of zero, are None.
    """
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
