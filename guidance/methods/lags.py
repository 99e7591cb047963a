"""LAGS: sampling from w(x) p(x) with one gradient of log w and one more forward pass per step.

Source: Kim, Lee, Kim, de Veciana, "Efficient Weighted Sampling via Score-based Generative Models",
CVPR 2026, arXiv 2502.04646.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..contracts import (
    BranchedDenoiser,
    Denoiser,
    LogWeight,
    check_finite_model,
    checked_value,
    checked_value_and_grad,
)
from ..finite_difference import DifferenceStep, jacobian_vector_product, rms
from ..schedules import ChordSchedule, Measured, Schedule, UncertaintySchedule, is_active
from ..shapes import Latents, PerSample
from ..step_correction import kernel_share
from ..trace import StepRecord
from ..ve import per_sample


@dataclass(frozen=True)
class LAGS:
    """Guidance as a shift of the denoised picture.

    Attributes:
        schedule: alpha.
        jacobian: whether v passes through the denoiser's Jacobian; False shifts along v itself and
            saves the second forward.
        step: how far apart the two forwards are.
        shift_limit: greatest RMS of the shift relative to the denoised picture's, per sample; None
            for no limit.
        most_deviations: greatest shift in standard deviations of the posterior along it, which is
            where an approximation around the denoised picture ends; None for no limit.
        skip_below: share of the greatest influence under which a step stays plain; 0 never skips.
        tilt_start: whether a run also draws its first noise from w p, see ``tilted_start``.
        conditional: whether the second forward takes the conditional branch alone where there are
            two, which is half its cost.
        reuse: evaluations that one gradient of log w serves, see ``HeldLogWeight``; who runs the
            sampler wraps the weight.
        fit_kernel: whether the shift is made to fit the kernel of an ancestral sampler's step, see
            ``kernel_share``; without it the shift is that of infinitely fine steps.
    """

    schedule: Schedule = field(default_factory=UncertaintySchedule)
    jacobian: bool = True
    step: DifferenceStep = field(default_factory=DifferenceStep)
    shift_limit: float | None = None
    most_deviations: float | None = None
    skip_below: float = 0.0
    tilt_start: bool = False
    fit_kernel: bool = False
    conditional: bool = False
    reuse: int = 1

    def __post_init__(self) -> None:
        if self.reuse < 1:
            raise ValueError(f"reuse is {self.reuse}; expected 1 or more evaluations.")
        if self.shift_limit is not None and not self.shift_limit > 0:
            raise ValueError(f"shift limit is {self.shift_limit}; expected above 0, or None.")
        if self.most_deviations is not None and not self.most_deviations > 0:
            raise ValueError(
                f"most_deviations is {self.most_deviations}; expected above 0, or None."
            )
        if not 0 <= self.skip_below < 1:
            raise ValueError(f"skip threshold is {self.skip_below}; expected 0 to below 1.")
        if self.schedule.needs_shift and not self.jacobian:
            raise ValueError(
                "This schedule measures <v, J v>, so it needs the Jacobian (the second forward). "
                "Choose a fixed schedule for guidance without it."
            )

    def is_active(self, sigma_ve: PerSample) -> Tensor:
        """Which of these noise levels are guided at all: [B] booleans."""
        return is_active(self.schedule, sigma_ve, self.skip_below)

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        keep: float = 1.0,
    ) -> tuple[Latents, StepRecord]:
        """The guided denoised picture at one noise level.

        Args:
            denoiser: D, the model with everything that the user combined into it.
            log_weight: log w on denoised pictures.
            x: [B, ...] noisy sample, variance-exploding.
            sigma_ve: [B].
            keep: what an ancestral step keeps of x - D, (sigma_next / sigma)^2; 1 where the sampler
                is another, or not known. Read only with ``fit_kernel``.

        Returns:
            denoised [B, ...] in the dtype of D's output, and what was done.

        Raises:
            WeightError: the weight broke its contract at this noise level.
            ModelError: the model's own output is not finite.
        """
        denoised, shift, record = self._evaluate(denoiser, log_weight, x, sigma_ve, keep)
        if shift is None:
            return denoised, record
        return (denoised.float() + shift).to(denoised.dtype), record

    def tilted_start(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
    ) -> tuple[Latents, StepRecord]:
        """The first noisy sample, drawn from w p instead of p.

        A sampler starts from x0 + sigma * noise as if the noise knew nothing of the picture. It
        does: E[w | x] differs from one noise to the next, above all for what has more variance than
        sigma^2 (the colour or brightness of a whole picture). Tilting N(x0, sigma^2) by
        exp(g . x), g = alpha J v, moves its mean by sigma^2 g: the same shift, applied to x. Not in
        the paper.

        The first denoised picture has no detail yet, so a weight that asks for detail has a steep
        gradient there that says little; a schedule that looks at log w looks on both sides here.

        Args and errors as for a step.

        Returns:
            x [B, ...] moved, and what was done.
        """
        _, shift, record = self._evaluate(denoiser, log_weight, x, sigma_ve, both_sides=True)
        return (x if shift is None else (x.float() + shift).to(x.dtype)), record

    def _evaluate(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        keep: float = 1.0,
        both_sides: bool = False,
    ) -> tuple[Latents, Latents | None, StepRecord]:
        """(D(x), its shift or None where the step is skipped, what was done)."""
        start = time.perf_counter()
        denoised = denoiser(x, sigma_ve)
        active = self.is_active(sigma_ve)
        if not bool(active.any()):
            return denoised, None, StepRecord.skipped(sigma_ve, time.perf_counter() - start)

        # v = grad log w at the denoised picture: the gradient never enters the denoiser.
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)

        # J v stands for J^T v (eq. 13); J is symmetric for an exact score.
        drowned = self.step.is_drowned(sigma_ve)
        second = self.jacobian and not bool(drowned.all())
        reached = self.step.within_reach(v, sigma_ve)
        jv = reached.float()
        if second:
            h = self.step.size(reached, sigma_ve)
            further = denoiser
            if self.conditional and isinstance(denoiser, BranchedDenoiser):
                further = denoiser.conditional
            product = jacobian_vector_product(further, x, sigma_ve, denoised, reached, h)
            jv = torch.where(per_sample(drowned, x), jv, product)
            check_finite_model(jv, sigma_ve)

        # Shifting D by sigma^2 g adds g to the score (Tweedie); alpha is eq. 17 or measured.
        sigma2 = sigma_ve.float() ** 2
        whole = per_sample(sigma2, x) * jv
        measured = self._measured(log_weight, denoised, log_w, v, whole, sigma_ve, both_sides)
        alpha = self.schedule.alpha(sigma_ve, measured) * active  # 0 for samples to be skipped
        factor = alpha
        if self.most_deviations is not None:
            # A tilt by v moves the posterior's mean by sqrt(<v, whole>) of its deviations.
            deviations = (reached.float() * whole).flatten(1).sum(dim=1).clamp(min=1e-30).sqrt()
            factor = torch.minimum(factor, self.most_deviations / deviations)
        if self.fit_kernel:
            factor = factor * kernel_share(keep, sigma2, measured.predicted, whole)
        shift = self._limited(per_sample(factor, x) * whole, denoised)

        record = StepRecord(
            sigma_ve=sigma_ve,
            active=True,
            alpha=alpha,
            log_w=log_w,
            variance=measured.predicted,
            shift_rms=rms(shift),
            denoised_rms=rms(denoised),
            model_calls=2 if second else 1,
            weight_calls=1,
            seconds=time.perf_counter() - start,
            value_calls=sum(gain is not None for gain in (measured.realised, measured.opposite)),
            realised=measured.realised,
        )
        return denoised, shift, record

    def _measured(
        self,
        log_weight: LogWeight,
        denoised: Latents,
        log_w: PerSample,
        v: Latents,
        whole: Latents,
        sigma_ve: PerSample,
        both_sides: bool,
    ) -> Measured:
        """What the schedule goes by: the gain that v promises for the whole shift, what comes."""
        predicted = (v.float() * whole).flatten(1).sum(dim=1)
        # Beyond float32 the sum is inf - inf: no number, but doubt without bound.
        predicted = predicted.nan_to_num(nan=torch.finfo(torch.float32).max)
        if not self.schedule.needs_gain:
            return Measured(predicted)

        def gain(picture: Latents) -> PerSample:
            return checked_value(log_weight, picture, sigma_ve) - log_w

        plain = denoised.float()
        return Measured(predicted, gain(plain + whole), gain(plain - whole) if both_sides else None)

    def _limited(self, shift: Latents, denoised: Latents) -> Latents:
        """The shift, scaled down per sample to the limit where there is one."""
        if self.shift_limit is None:
            return shift
        size, limit = rms(shift), self.shift_limit * rms(denoised)
        kept = torch.where(size > limit, limit / size.clamp(min=1e-30), 1.0)
        return per_sample(kept, shift) * shift


BALANCED_SKIP = 0.15
MOST_DEVIATIONS = 4.0
FAST_SKIP = 0.02
FAST_REUSE = 2  # costs it nothing measurable; ``balanced`` would lose a little where log w bends
PAPERS_C = 10.0
CAUTION_PER_C = 0.05  # one dial for all modes: c = 10 is the paper's schedule, or caution 0.5
KAPPA_PER_C = 0.01  # likewise kappa = 0.1


def preset(mode: str, c: float = PAPERS_C, step: DifferenceStep | None = None) -> LAGS:
    """LAGS as one of three modes.

    - ``paper``: the paper to the letter: every step, alpha = 1 / (1 + c sigma^4), second forward.
    - ``balanced``: the second forward goes the whole way; alpha is measured per sample by how much
      of the promised gain comes true; the first noise is tilted too, and the shift made to fit an
      ancestral sampler's steps; skips where nothing would change.
    - ``fast``: the paper's schedule without the second forward; skips likewise, and one gradient
      serves two evaluations.

    Args:
        mode: one of the names above.
        c: caution, > 0; larger trusts the weight later in the run, or less where log w bends. One
            dial for all modes.
        step: the finite-difference step; None is float32's.

    Raises:
        ValueError: unknown mode, or c not above 0.
    """
    if not (math.isfinite(c) and c > 0):
        raise ValueError(f"confidence c is {c}; expected a finite number above 0 (the paper: 10).")
    step = step or DifferenceStep()
    paper = LAGS(schedule=UncertaintySchedule(c), step=step)
    if mode == "paper":
        return paper
    if mode == "balanced":
        return LAGS(
            schedule=ChordSchedule(CAUTION_PER_C * c),
            step=replace(step, whole=True),
            most_deviations=MOST_DEVIATIONS,
            skip_below=BALANCED_SKIP,
            tilt_start=True,
            fit_kernel=True,
            conditional=True,
        )
    if mode == "fast":
        return replace(paper, jacobian=False, skip_below=FAST_SKIP, reuse=FAST_REUSE)
    raise ValueError(f"mode is {mode!r}; expected one of {MODES}.")


MODES = ("balanced", "fast", "paper")
