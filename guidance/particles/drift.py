"""Where particles are pushed: nowhere, along a method's guidance, or along the full gradient.

Any push is exact, because the path weights take it back; a good one leaves them even.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..shapes import Latents, PerSample
from ..trace import StepRecord
from ..ve import per_sample

Method = Callable[[Denoiser, LogWeight, Latents, PerSample], tuple[Latents, StepRecord]]
# (x, sigma_ve) -> (D(x), the map from v to J^T v, to be called once)
DenoiserVJP = Callable[[Latents, PerSample], tuple[Latents, Callable[[Latents], Latents]]]


@dataclass(frozen=True)
class Proposal:
    """What one evaluation of some particles gives.

    Attributes:
        denoised: D(x), [B, ...].
        guidance: what is added to the score, [B, ...]; None for nothing.
        log_w: of the denoised pictures, [B]; None where it was not needed.
        model_calls: forwards of the denoiser per particle.
        model_backwards: backward passes through it per particle.
        weight_calls: evaluations of the weight per particle.
    """

    denoised: Latents
    guidance: Latents | None
    log_w: PerSample | None
    model_calls: int
    model_backwards: int
    weight_calls: int


@runtime_checkable
class Drift(Protocol):
    """The denoised picture and the push at one noise level; particles do not see each other."""

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, /
    ) -> Proposal: ...


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


@dataclass(frozen=True)
class MethodDrift:
    """A method's shift of the denoised picture, read as guidance: shift / sigma^2.

    LAGS, with or without the Jacobian: no backward pass through the model.

    Attributes:
        method: shifts the denoised picture.
    """

    method: Method

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
    ) -> Proposal:
        """One evaluation of the method."""
        known = denoiser(x, sigma_ve)

        def answered(asked: Latents, level: PerSample) -> Latents:
            return known if asked is x else denoiser(asked, level)

        guided, record = self.method(answered, log_weight, x, sigma_ve)
        check_finite_model(guided, sigma_ve)
        guidance = None
        if record.active:
            shift = guided.to(x.dtype) - known.to(x.dtype)
            guidance = shift / per_sample(sigma_ve, shift) ** 2
        weight_calls = record.weight_calls + record.value_calls
        return Proposal(known, guidance, record.log_w, record.model_calls, 0, weight_calls)


@dataclass(frozen=True)
class GradientDrift:
    """grad_x log w(D(x)) by a backward pass through the model: DAS, TDS, URGE.

    Attributes:
        vjp: the denoiser with its transposed Jacobian; ``autograd_vjp`` makes one.
    """

    vjp: DenoiserVJP

    def __call__(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
    ) -> Proposal:
        """One forward and one backward."""
        denoised, pull = self.vjp(x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        guidance = pull(v)
        check_finite_model(guidance, sigma_ve)
        return Proposal(denoised, guidance, log_w, 1, 1, 1)


def autograd_vjp(denoiser: Denoiser) -> DenoiserVJP:
    """J^T v by autograd, of a denoiser that autograd can follow. Keeps its graph until the pull."""

    def vjp(x: Latents, sigma_ve: PerSample) -> tuple[Latents, Callable[[Latents], Latents]]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            denoised = denoiser(leaf, sigma_ve.clone())

        def pull(v: Latents) -> Latents:
            with torch.inference_mode(False):
                cotangent = v.detach().clone().to(denoised.dtype)
                (gradient,) = torch.autograd.grad(denoised, leaf, cotangent)
            return gradient

        return denoised.detach(), pull

    return vjp
