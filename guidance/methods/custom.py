"""A method that is one function: how other node packs bring theirs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..contracts import Denoiser, LogWeight, ModelError, check_finite_model
from ..finite_difference import rms
from ..shapes import Latents, PerSample
from ..trace import StepRecord

Function = Callable[[Denoiser, LogWeight, Latents, PerSample], Latents]


@dataclass(frozen=True)
class CustomMethod:
    """``function(denoiser, log_weight, x, sigma_ve) -> denoised``, watched for the trace.

    Attributes:
        function: x [B, ...] and sigma_ve [B] are variance-exploding; it asks ``denoiser(x,
            sigma_ve)`` at any x and this sigma_ve, and ``log_weight.value_and_grad(denoised)``, as
            often as it likes, and returns the denoised picture that the sampler is to believe in.
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
            ModelError: what comes back is no picture shaped like x, or not finite; or the function
                asks for another noise level.
        """
        start = time.perf_counter()
        model = _WatchedDenoiser(denoiser, sigma_ve)
        weight = _WatchedLogWeight(log_weight, len(x))
        guided = _checked(self.function(model, weight, x, sigma_ve), x, sigma_ve)
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
            model_backwards=model.backwards,
        )


def _checked(guided: Any, x: Latents, sigma_ve: PerSample) -> Latents:
    """What a function returned, if it is a picture."""
    if not isinstance(guided, torch.Tensor) or guided.shape != x.shape:
        is_tensor = isinstance(guided, torch.Tensor)
        got = f"shape {tuple(guided.shape)}" if is_tensor else f"type {type(guided).__name__}"
        raise ModelError(
            f"The method returned something of {got} for x of shape {tuple(x.shape)}; expected the "
            "denoised picture, shaped like x."
        )
    if not bool(guided.isfinite().all()):
        raise ModelError(
            f"The method's picture is not finite at noise level sigma = {_level(sigma_ve):.4g}, "
            "and the model's is: the fault lies in the method. Leave it out, or ask its authors."
        )
    return guided


def _level(sigma_ve: PerSample) -> float:
    return float(sigma_ve.flatten()[0])


class _WatchedDenoiser:
    """Counts, and keeps what the first call returned: the plain picture."""

    def __init__(self, denoiser: Denoiser, sigma_ve: PerSample) -> None:
        self.denoiser, self.here = denoiser, sigma_ve
        self.calls = self.backwards = 0
        self.first: Latents | None = None

    def __call__(self, x: Latents, sigma_ve: PerSample) -> Latents:
        self._check_level(sigma_ve)
        return self._noted(self.denoiser(x, sigma_ve))

    def vjp(self, x: Latents, sigma_ve: PerSample) -> tuple[Latents, Callable[[Latents], Latents]]:
        """As the denoiser's own, where the method is one ``through_model``."""
        self._check_level(sigma_ve)
        denoised, pull = self.denoiser.vjp(x, sigma_ve)  # type: ignore[attr-defined]

        def counted(v: Latents) -> Latents:
            self.backwards += 1
            pulled: Latents = pull(v)
            return pulled

        return self._noted(denoised), counted

    def _check_level(self, sigma_ve: PerSample) -> None:
        if sigma_ve.shape != self.here.shape or bool((sigma_ve != self.here).any()):
            raise ModelError(
                f"The method asks for noise level {_level(sigma_ve):.4g}, and in this step the "
                f"model answers at {_level(self.here):.4g} only: expected sigma_ve as it was given."
            )

    def _noted(self, denoised: Latents) -> Latents:
        check_finite_model(denoised, self.here)
        self.calls += 1
        self.first = denoised if self.first is None else self.first
        return denoised


class _WatchedLogWeight:
    """Counts, and keeps the first log w and gradient of a whole batch."""

    def __init__(self, log_weight: LogWeight, batch: int) -> None:
        self.log_weight, self.name, self.batch = log_weight, log_weight.name, batch
        self.values = self.gradients = 0
        self.log_w: PerSample | None = None
        self.gradient: Latents | None = None

    def __call__(self, denoised: Latents) -> PerSample:
        log_w = self.log_weight(denoised)
        self.values += 1
        if self.log_w is None and len(denoised) == self.batch:
            self.log_w = log_w
        return log_w

    def value_and_grad(self, denoised: Latents) -> tuple[PerSample, Latents]:
        log_w, gradient = self.log_weight.value_and_grad(denoised)
        self.gradients += 1
        if self.gradient is None and len(denoised) == self.batch:
            self.log_w, self.gradient = log_w, gradient
        return log_w, gradient
