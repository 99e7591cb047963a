"""A method that is one function: how other node packs bring theirs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .contracts import Denoiser, LogWeight, ModelError, check_finite_model
from .finite_difference import rms
from .shapes import Latents, PerSample
from .trace import StepRecord

Function = Callable[[Denoiser, LogWeight, Latents, PerSample], Latents]


@dataclass(frozen=True)
class CustomMethod:
    """``function(denoiser, log_weight, x, sigma_ve) -> denoised``, watched for the trace.

    Attributes:
        function: x [B, ...] and sigma_ve [B] are variance-exploding; it asks ``denoiser(x,
            sigma_ve)`` and ``log_weight.value_and_grad(denoised)`` as often as it likes, and
            returns the denoised picture that the sampler is to believe in.
    """

    function: Function

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        keep: float = 1.0,
    ) -> tuple[Latents, StepRecord]:
        """The guided denoised picture, and what it took.

        Raises:
            ModelError: the picture has another shape than x, or is not finite.
        """
        start = time.perf_counter()
        model, weight = _WatchedDenoiser(denoiser), _WatchedLogWeight(log_weight)
        guided = self.function(model, weight, x, sigma_ve)
        if guided.shape != x.shape:
            raise ModelError(
                f"The method returned a picture of shape {tuple(guided.shape)} for x of shape "
                f"{tuple(x.shape)}; expected the denoised picture, shaped like x."
            )
        check_finite_model(guided, sigma_ve)
        return guided, self._record(model, weight, guided, sigma_ve, time.perf_counter() - start)

    def _record(
        self,
        model: _WatchedDenoiser,
        weight: _WatchedLogWeight,
        guided: Latents,
        sigma_ve: PerSample,
        seconds: float,
    ) -> StepRecord:
        plain = guided if model.first is None else model.first
        shift = guided.float() - plain.float()
        v = weight.gradient
        return StepRecord(
            sigma_ve=sigma_ve,
            active=bool(weight.gradients or weight.values),
            alpha=torch.ones_like(sigma_ve),
            log_w=weight.log_w,
            variance=None if v is None else (v.float() * shift).flatten(1).sum(dim=1),
            shift_rms=rms(shift),
            denoised_rms=rms(plain),
            model_calls=model.calls,
            weight_calls=weight.gradients,
            seconds=seconds,
            value_calls=weight.values,
        )


class _WatchedDenoiser:
    """Counts, and keeps what the first call returned: the plain picture."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.calls = denoiser, 0
        self.first: Latents | None = None

    def __call__(self, x: Latents, sigma_ve: PerSample) -> Latents:
        denoised = self.denoiser(x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        self.calls += 1
        self.first = denoised if self.first is None else self.first
        return denoised


class _WatchedLogWeight:
    """Counts, and keeps the first log w and gradient."""

    def __init__(self, log_weight: LogWeight) -> None:
        self.log_weight, self.name = log_weight, log_weight.name
        self.values = self.gradients = 0
        self.log_w: PerSample | None = None
        self.gradient: Latents | None = None

    def __call__(self, denoised: Latents) -> PerSample:
        log_w = self.log_weight(denoised)
        self.values += 1
        self.log_w = log_w if self.log_w is None else self.log_w
        return log_w

    def value_and_grad(self, denoised: Latents) -> tuple[PerSample, Latents]:
        log_w, gradient = self.log_weight.value_and_grad(denoised)
        self.gradients += 1
        if self.gradient is None:
            self.log_w, self.gradient = log_w, gradient
        return log_w, gradient
