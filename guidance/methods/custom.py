"""A method that is one function: how other node packs bring theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..contracts import Denoiser, LogWeight, ModelError, Pull, check_finite_model
from ..finite import is_spoilt, refuse
from ..shapes import Latents, PerSample
from .base import Cost, Guided, Method, Step, cost_everywhere, finish

Function = Callable[[Denoiser, LogWeight, Latents, PerSample], Latents]


@dataclass(frozen=True)
class CustomMethod(Method):
    """``function(denoiser, log_weight, x, sigma_ve) -> denoised``, watched for the trace.

    Attributes:
        function: x [B, ...] and sigma_ve [B] are variance-exploding; it asks ``denoiser(x,
            sigma_ve)`` at any x and this sigma_ve, and ``log_weight.value_and_grad(denoised)``, as
            often as it likes, and returns the denoised sample that the sampler receives.
            Its attributes ``name``, ``needs_gradient`` and ``through_model`` are read where it has
            them.
    """

    function: Function
    compares = True  # it may, and nobody can tell

    @property
    def name(self) -> str:  # type: ignore[override]
        """For labels and errors."""
        return str(getattr(self.function, "name", getattr(self.function, "__name__", "method")))

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether it asks for the gradient of the weight."""
        return bool(getattr(self.function, "needs_gradient", True))

    @property
    def through_model(self) -> bool:  # type: ignore[override]
        """Whether it goes backward through the model: then the denoiser has ``vjp``."""
        return bool(getattr(self.function, "through_model", False))

    def cost(self, sigma_ve: PerSample) -> Cost:
        """One gradient in each step, by guess: only a run can tell."""
        return cost_everywhere(sigma_ve, int(self.through_model), int(self.needs_gradient))

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """The guided denoised sample, and what it took.

        Raises:
            ModelError: what comes back is no sample shaped like x, or not finite; or the function
                asks for another noise level.
        """
        model = _WatchedDenoiser(denoiser, x, sigma_ve, step)
        weight = _WatchedLogWeight(log_weight, len(x))
        guided = _checked(self.function(model, weight, x, sigma_ve), x, sigma_ve).detach()
        plain = guided if step.denoised is None else step.denoised
        shift = guided.float() - plain.float()
        _, record = finish(plain, shift, sigma_ve, step, weight.log_w)
        return guided.to(plain.dtype), replace(
            record,
            active=bool(weight.gradients or weight.values),
            model_calls=model.calls,
            model_backwards=model.backwards,
            weight_calls=weight.gradients,
            value_calls=weight.values,
        )


def _checked(guided: Any, x: Latents, sigma_ve: PerSample) -> Latents:
    """What a function returned, if it is a sample."""
    if not isinstance(guided, torch.Tensor) or guided.shape != x.shape:
        is_tensor = isinstance(guided, torch.Tensor)
        got = f"shape {tuple(guided.shape)}" if is_tensor else f"type {type(guided).__name__}"
        raise ModelError(
            f"The method returned something of {got} for x of shape {tuple(x.shape)}; expected the "
            "denoised sample, shaped like x."
        )

    def error() -> ModelError:
        return ModelError(
            f"The method's sample is not finite at noise level sigma = {_level(sigma_ve):.4g}, "
            "and the model's is: the fault lies in the method. Leave it out, or ask its authors."
        )

    refuse(is_spoilt(guided), error)
    return guided


def _level(sigma_ve: PerSample) -> float:
    return float(sigma_ve.flatten()[0])


class _WatchedDenoiser:
    """Counts; at the step's own x, told by its values, it answers with the one D(x) of the step."""

    def __init__(self, denoiser: Denoiser, x: Latents, sigma_ve: PerSample, step: Step) -> None:
        self.denoiser, self.x, self.here, self.step = denoiser, x, sigma_ve, step
        self.calls = self.backwards = 0
        self.own_counted = False

    def __call__(self, x: Latents, sigma_ve: PerSample) -> Latents:
        self._check_level(sigma_ve)
        if not self._is_own(x):
            self.calls += 1
            return self._finite(self.denoiser(x, sigma_ve))
        self.calls += not self.own_counted
        self.own_counted = True
        return self._finite(self.step.denoise(self.denoiser, self.x, sigma_ve)).to(x.dtype)

    def vjp(self, x: Latents, sigma_ve: PerSample) -> tuple[Latents, Pull]:
        """As the denoiser's own, where the method is one ``through_model``."""
        self._check_level(sigma_ve)
        denoised, pull = self.denoiser.vjp(x, sigma_ve)  # type: ignore[attr-defined]
        self.calls += 1
        if self._is_own(x):
            self.step.denoised, self.own_counted = denoised, True

        def counted(v: Latents) -> Latents:
            self.backwards += 1
            pulled: Latents = pull(v)
            return pulled

        return self._finite(denoised), counted

    def _is_own(self, x: Latents) -> bool:
        return x is self.x or (x.shape == self.x.shape and torch.equal(x.to(self.x), self.x))

    def _check_level(self, sigma_ve: PerSample) -> None:
        if sigma_ve is self.here:
            return
        if sigma_ve.shape != self.here.shape or bool((sigma_ve != self.here).any()):
            raise ModelError(
                f"The method evaluates at noise level {_level(sigma_ve):.4g}, and in this step the "
                f"model answers at {_level(self.here):.4g} only: expected sigma_ve as it was given."
            )

    def _finite(self, denoised: Latents) -> Latents:
        check_finite_model(denoised, self.here)
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
