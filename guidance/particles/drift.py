"""Where particles are pushed: nowhere, along a method's guidance, or along the full gradient.

Any push is exact, because the path weights take it back; a good one leaves them even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..contracts import Denoiser, LogWeight, check_finite_model
from ..methods.base import Cost, Method, Step, cost_everywhere, plain_cost
from ..methods.dps import gradient_through
from ..shapes import Latents, PerSample
from ..ve import per_sample


@dataclass(frozen=True)
class Proposal:
    """What one evaluation of some particles gives.

    Attributes:
        denoised: D(x), [B, ...].
        guidance: what is added to the score, [B, ...]; None for nothing.
        log_w: of the denoised samples, [B]; None where it was not needed.
        model_calls: forwards of the denoiser per particle.
        model_backwards: backward passes through it per particle.
        weight_calls: evaluations of the weight per particle.
        gradient_calls: of these, with its gradient.
        slope: J along the guidance, [B], by which it grows as the noise falls; None where it is
            not known.
    """

    denoised: Latents
    guidance: Latents | None
    log_w: PerSample | None
    model_calls: int
    model_backwards: int
    weight_calls: int
    gradient_calls: int = 0
    slope: PerSample | None = None


@runtime_checkable
class Drift(Protocol):
    """The denoised sample and the push at one noise level; particles do not see each other."""

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, /
    ) -> Proposal: ...

    def cost(self, sigma_ve: PerSample, /) -> Cost:
        """What an evaluation takes at each of these noise levels, [N]."""
        ...


@dataclass(frozen=True)
class NoDrift:
    """No push, so no gradient of the weight is needed (FK-steering)."""

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
    ) -> Proposal:
        """D(x) alone."""
        denoised = denoiser(x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        return Proposal(denoised, None, None, 1, 0, 0)

    def cost(self, sigma_ve: PerSample) -> Cost:
        """Plain."""
        return plain_cost(sigma_ve)


@dataclass(frozen=True)
class MethodDrift:
    """A method's shift of the denoised sample, read as guidance: shift / sigma^2.

    LAGS, with or without the second evaluation: no backward pass through the model.

    Attributes:
        method: shifts the denoised sample.
    """

    method: Method

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
    ) -> Proposal:
        """One evaluation of the method."""
        step = Step()
        guided, record = self.method(denoiser, log_weight, x, sigma_ve, step)
        plain = step.denoise(denoiser, x, sigma_ve)
        check_finite_model(guided, sigma_ve)
        guidance = None
        if record.active:
            shift = guided.to(x.dtype) - plain.to(x.dtype)
            guidance = shift / per_sample(sigma_ve, shift) ** 2
        weight_calls = record.weight_calls + record.value_calls
        calls = record.model_calls, 0, weight_calls, record.weight_calls
        measured = step.state.measured
        slope = None if measured is None else measured.j
        return Proposal(plain, guidance, record.log_w, *calls, slope=slope)

    def cost(self, sigma_ve: PerSample) -> Cost:
        """The method's."""
        return self.method.cost(sigma_ve)


@dataclass(frozen=True)
class GradientDrift:
    """grad_x log w(D(x)) by a backward pass through the model: DAS, TDS, URGE.

    The denoiser has to be a ``DifferentiableDenoiser``.
    """

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
    ) -> Proposal:
        """One forward and one backward."""
        denoised, log_w, _, guidance = gradient_through(denoiser, log_weight, x, sigma_ve, Step())
        return Proposal(denoised, guidance, log_w, 1, 1, 1, 1)

    def cost(self, sigma_ve: PerSample) -> Cost:
        """A backward pass in every step."""
        return cost_everywhere(sigma_ve, backwards=1, gradients=1)
