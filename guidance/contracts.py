"""The interfaces: a denoiser, a log-weight, and what is checked of their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .finite import is_spoilt, refuse
from .shapes import Latents, PerSample


@runtime_checkable
class Denoiser(Protocol):
    """``(x, sigma_ve) -> denoised``: the posterior mean E[x0 | x] at a noise level.

    x and denoised are [B, ...] in variance-exploding form (x = x0 + sigma_ve * noise), sigma_ve is
    [B]. No gradient is needed, and one step may call it twice.
    """

    def __call__(self, x: Latents, sigma_ve: PerSample, /) -> Latents: ...


# What a denoiser can do beyond that is declared by these; a method asks for what it needs.


@runtime_checkable
class ConditionalDenoiser(Denoiser, Protocol):
    """A denoiser with classifier-free guidance that can evaluate one branch alone.

    ``conditional(x, sigma_ve)`` is D of the run's own x, plus how far the conditional branch alone
    moves from there to this x: half the cost of another evaluation.
    """

    def conditional(self, x: Latents, sigma_ve: PerSample, /) -> Latents: ...


@runtime_checkable
class CorrectedDenoiser(Denoiser, Protocol):
    """A denoiser that knows what classifier-free guidance did in its last evaluation."""

    def correction(self) -> Latents | None:
        """cfg (D_conditional - D_unconditional), [B, ...]; None where there is one branch."""


Pull = Callable[[Latents], Latents]  # v -> J^T v, to be called once


@runtime_checkable
class DifferentiableDenoiser(Denoiser, Protocol):
    """A denoiser that a gradient can go back through; one forward serves both directions."""

    def vjp(self, x: Latents, sigma_ve: PerSample, /) -> tuple[Latents, Pull]:
        """(D(x), the map from v to J^T v)."""


@runtime_checkable
class LogWeight(Protocol):
    """log w on denoised samples, per sample, with its gradient.

    ``name`` is what errors call it. ``value_and_grad`` returns (log_w [B], grad like its input),
    both float32; sample b's values depend on sample b alone.
    """

    name: str

    def __call__(self, denoised: Latents, /) -> PerSample: ...

    def value_and_grad(self, denoised: Latents, /) -> tuple[PerSample, Latents]: ...


class WeightError(ValueError):
    """A weight function broke its contract: wrong shape, no gradient, or not finite."""


class ModelError(ArithmeticError):
    """The denoiser returned what is not finite."""


def check_finite_model(output: Latents, sigma_ve: Tensor) -> None:
    """Refuse a denoiser's output that would end as a black image.

    Raises:
        ModelError: a value is NaN or infinite; the message names the first noise level.
    """

    def error() -> ModelError:
        return ModelError(
            "The diffusion model's own output is not finite at noise level sigma = "
            f"{float(sigma_ve.flatten()[0]):.4g}: its precision overflowed. Run the model in "
            "bfloat16 or float32, or lower cfg."
        )

    refuse(is_spoilt(output), error)


class AutogradLogWeight:
    """A log-weight from any differentiable function [B, ...] -> [B].

    Works inside ``torch.inference_mode`` too, where ComfyUI runs its nodes: the copy that autograd
    sees is made outside of it. The function's own constants must not be inference tensors.

    Args:
        function: log w of each sample; must not couple samples.
        name: what errors call this weight.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, denoised: Latents) -> Tensor:
        """log w, float32, without a graph; [B] if the function keeps its promise."""
        with torch.no_grad():
            return self.function(denoised.float()).float()

    def value_and_grad(self, denoised: Latents) -> tuple[PerSample, Latents]:
        """(log w [B], its gradient like ``denoised``), float32.

        Raises:
            WeightError: the function returns another shape than [B], or has no gradient.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = denoised.detach().clone().float().requires_grad_()
            log_w = self.function(leaf)
            check_shape(log_w, leaf, self.name)
            grad = None
            if log_w.requires_grad:
                (grad,) = torch.autograd.grad(log_w.sum(), leaf, allow_unused=True)
            if grad is None:
                raise WeightError(
                    f"Weight '{self.name}' gives no gradient, which guidance needs. "
                    "Use a differentiable weight, or a particle method, which needs none."
                )
        return log_w.detach().float(), grad


def check_shape(log_w: Tensor, denoised: Tensor, name: str) -> None:
    """Raise WeightError unless log_w is one number per sample."""
    if log_w.shape != denoised.shape[:1]:
        raise WeightError(
            f"Weight '{name}' returned shape {tuple(log_w.shape)} for {denoised.shape[0]} samples; "
            f"expected ({denoised.shape[0]},): one log-weight per sample."
        )


def checked_value_and_grad(
    log_weight: LogWeight, denoised: Latents, sigma_ve: PerSample
) -> tuple[PerSample, Latents]:
    """``log_weight.value_and_grad``, refusing what would silently spoil a sample.

    Raises:
        WeightError: wrong shape, or a value or gradient that is not finite; the message names the
            weight and the noise level.
    """
    log_w, grad = log_weight.value_and_grad(denoised)
    check_shape(log_w, denoised, log_weight.name)
    if grad.shape != denoised.shape:
        raise WeightError(
            f"Weight '{log_weight.name}' returned a gradient of shape {tuple(grad.shape)}; "
            f"expected {tuple(denoised.shape)}."
        )
    refuse(is_spoilt(log_w), lambda: _not_finite(log_weight.name, "value", sigma_ve))
    refuse(is_spoilt(grad), lambda: _not_finite(log_weight.name, "gradient", sigma_ve))
    return log_w, grad


def checked_value(log_weight: LogWeight, samples: Latents, sigma_ve: Tensor) -> PerSample:
    """log w [B] without a gradient; minus infinity, a weight of zero, is an answer.

    Raises:
        WeightError: wrong shape, or a value that is NaN or plus infinity.
    """
    log_w = log_weight(samples)
    check_shape(log_w, samples, log_weight.name)
    spoilt = ~(log_w < torch.inf).all()  # as NaN is not, either
    refuse(spoilt, lambda: _not_finite(log_weight.name, "value", sigma_ve))
    return log_w.float()


def _not_finite(name: str, what: str, sigma_ve: Tensor) -> WeightError:
    return WeightError(
        f"Weight '{name}' has a {what} that is not finite at noise level "
        f"sigma = {float(sigma_ve.flatten()[0]):.4g}. Lower its strength, or run the "
        "weight's model in float32."
    )
