"""A MODEL as the particle engine sees it: its chains, its noise levels, all particles at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import comfy.model_sampling
import torch
from comfy.samplers import KSamplerX0Inpaint
from torch import Tensor

from ..guidance import Ancestral, Chain, LogWeight, per_sample, scaled_vjp, ve_view
from ..guidance.particles import PRESETS
from ..guidance.ve import SMALLEST_SIGNAL
from .caches import without_caches
from .gradient import followed, networks_of
from .memory import back_on_device, make_room, no_room_for_model, unless_out_of_memory

# Samplers whose every step is one Gaussian around a mean that the model's answer there decides.
SAMPLERS = ("euler_ancestral", "ddpm", "lcm")
WITHOUT_GRADIENT = (
    "the particle methods " + ", ".join(name for name, one in PRESETS.items() if one.needs_vjp),
    "choose method 'lags', 'smc' or 'fk'",
)


@dataclass(frozen=True)
class FlowAncestral:
    """Euler ancestral as ComfyUI runs it on flow models, in variance-exploding units.

    A flow model's step from t to t' goes down to t'^2 / t and back up with noise. In these units
    that is (down / sigma) of x, the rest of D, and s^2 = lower^2 - down^2.

    Attributes:
        noise_scale: standard deviation of the model's noise.
    """

    noise_scale: float = 1.0

    def _down(self, sigma: float, lower: float) -> float:
        """Where the step without noise ends."""
        next_t = lower / (lower + self.noise_scale)
        t = next_t**2 * (sigma + self.noise_scale) / sigma
        return self.noise_scale * t / (1 - t)

    def noise_std(self, sigma: float, lower: float) -> float:
        """s; 0 where ``lower`` is 0."""
        return math.sqrt(max(0.0, lower**2 - self._down(sigma, lower) ** 2))

    def mean(self, x: Tensor, denoised: Tensor, sigma: float, lower: float) -> Tensor:
        """Between the denoised image and x."""
        return denoised + (x - denoised) * (self._down(sigma, lower) / sigma)


@dataclass(frozen=True)
class Renoised:
    """LCM's sampler: the denoised image with fresh noise of the next level."""

    def noise_std(self, sigma: float, lower: float) -> float:
        """s: all of the next level's noise."""
        return lower

    def mean(self, x: Tensor, denoised: Tensor, sigma: float, lower: float) -> Tensor:
        """The denoised image; nothing is kept of x."""
        return denoised


def check_sampler(name: str) -> None:
    """Refuse a sampler that has no density.

    Raises:
        ValueError: it adds no noise, or its steps look back at earlier ones.
    """
    if name not in SAMPLERS:
        raise ValueError(
            f"sampler is {name!r}: particles are weighed by the density of each step's noise, "
            "which samplers without noise, or of higher order, do not have. Choose one of "
            f"{', '.join(SAMPLERS)}."
        )


def chain_of(name: str, sampling: Any) -> Chain:
    """What a sampler of ComfyUI does on a kind of model.

    Raises:
        ValueError: it has no chain there.
    """
    check_sampler(name)
    flow = isinstance(sampling, comfy.model_sampling.CONST)
    if name == "lcm":
        return Renoised()
    if name == "ddpm":
        if flow:
            raise ValueError(
                "sampler is 'ddpm', which has no chain on flow models (Flux, SD3): choose "
                "euler_ancestral."
            )
        return Ancestral()
    return FlowAncestral(float(getattr(sampling, "noise_scale", 1.0))) if flow else Ancestral()


@dataclass(frozen=True)
class Levels:
    """The noise levels of a run, each in the sampler's units and in variance-exploding ones.

    Attributes:
        sigma: [K + 1] the sampler's own.
        signal: [K + 1] what x is divided by.
        sigma_ve: [K + 1] falling to 0.
        clear: number of the first level that holds enough of the image to measure anything.
    """

    sigma: Tensor
    signal: Tensor
    sigma_ve: Tensor
    clear: int

    @classmethod
    def of(cls, sampling: Any, sigmas: Tensor) -> Levels:
        """Read off a model's own forward process; levels that repeat are steps of nothing."""
        sigmas = sigmas.float().unique_consecutive()
        view = ve_view(sampling.noise_scaling, sigmas)
        signal = view.signal.clone()
        flow = isinstance(sampling, comfy.model_sampling.CONST)
        if not flow and not bool((signal == 1).all()):
            raise ValueError(
                "The noise of this model is neither added to the image nor mixed with it (its "
                f"sampling is {type(sampling).__name__}), so particles cannot be weighed. Use "
                "KSampler (LAGS) instead."
            )
        clear = int((signal > SMALLEST_SIGNAL).int().argmax())
        if flow and len(signal) > 1 and signal[0] < SMALLEST_SIGNAL:
            # Pure noise is infinitely far in these units: take it for nearly pure noise.
            signal[0] = min(SMALLEST_SIGNAL, float(signal[1]) / 10)
        return cls(sigmas, signal, view.noise / signal, clear)

    def nearest(self, sigma_ve: Tensor) -> int:
        """Number of the level that this [B] is."""
        return int((self.sigma_ve - sigma_ve.flatten()[0]).abs().argmin())


@dataclass(frozen=True)
class Inpainting:
    """What ComfyUI's sampler keeps outside of a mask; [G, ...] each, model space.

    Attributes:
        noise: the run's initial noise.
        kept: the image that came in, or zeros.
        mask: 1 where may be painted; None for everywhere.
    """

    noise: Tensor
    kept: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, noise: Tensor, kept: Tensor, mask: Tensor | None) -> Inpainting:
        """Of copies that autograd accepts."""
        with torch.inference_mode(False):
            return cls(noise.clone(), kept.clone(), None if mask is None else mask.clone())

    def times(self, copies: int) -> Inpainting:
        """For that many particles of every image, in the images' order again and again."""
        around = (copies, *(1,) * (self.noise.ndim - 1))
        mask = None if self.mask is None else self.mask.repeat(around)
        return Inpainting(self.noise.repeat(around), self.kept.repeat(around), mask)


class ParticleModel:
    """The model as a denoiser of particles [G N, ...] by image, a few of each at a time.

    One particle of every image makes a batch of the latents' own size and order, so that what
    belongs to a single image (a prompt, a mask, a hint of a batch) finds it; more of them repeat
    that order, as ComfyUI itself repeats prompts over a batch.

    Args:
        guider: ComfyUI's, during a run.
        levels: of the run.
        inpainting: what is kept.
        options: what ComfyUI hands to each evaluation, ``model_options`` and ``seed``.
        at_once: particles of each image in one evaluation.
    """

    def __init__(
        self,
        guider: Any,
        levels: Levels,
        inpainting: Inpainting,
        options: dict[str, Any],
        at_once: int,
    ) -> None:
        self.guider, self.levels, self.inpainting = guider, levels, inpainting
        self.options, self.at_once = options, at_once

    def __call__(self, x: Tensor, sigma_ve: Tensor) -> Tensor:
        """D(x), [G N, ...]."""
        back_on_device(self.guider, self._shape(x))
        return self.in_parts(lambda part: self._evaluate(part, sigma_ve), x)

    def vjp(self, x: Tensor, sigma_ve: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(D(x), the map from v to J^T v, which raises ValueError where autograd cannot follow).

        The map computes D again: what autograd keeps is then of a few particles, and is gone before
        the next ones' turn, however many there are.
        """

        def pull(v: Tensor) -> Tensor:
            with followed(networks_of(self.guider), *WITHOUT_GRADIENT):
                return self.in_parts(lambda *part: self._pull(*part, sigma_ve), x, v)

        return self(x, sigma_ve), pull

    def _pull(self, x: Tensor, v: Tensor, sigma_ve: Tensor) -> Tensor:
        """J^T v of some particles of every image."""
        leaf = x.detach().clone().requires_grad_()
        return scaled_vjp(self._evaluate(leaf, sigma_ve), leaf, v)

    def in_parts(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """A function of some particles of every image, over all of them [G N, ...].

        Where memory runs out, once more with one particle of each image at a time, and so from
        then on.

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit even so.
        """
        done = self._try_in_parts(function, *inputs)
        if done is None:
            logging.warning(
                "LAGS: not enough memory for %d particles of each image at once beside the "
                "weight's models; trying again without them, and one particle at a time.",
                self.at_once,
            )
            make_room(self.guider)
            self.at_once = 1
            # A cache of another node holds more rows than come from now on.
            options = without_caches(self.options["model_options"])
            self.options = {**self.options, "model_options": options}
            done = self._try_in_parts(function, *inputs)
        if done is None:
            remedy = (
                "Make the image or the batch smaller, or choose method 'lags', 'fk' or 'smc': "
                "they need no gradient through the model, which takes several times as much."
            )
            raise no_room_for_model(self.guider, self._shape(inputs[0]), remedy)
        return done

    def _shape(self, x: Tensor) -> torch.Size:
        """Of what is evaluated at once."""
        rows = min(len(x), self.at_once * len(self.inpainting.noise))
        return torch.Size((rows, *x.shape[1:]))

    def _try_in_parts(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor | None:
        """As ``in_parts``, or None where memory ran out."""
        groups = len(self.inpainting.noise)
        by_particle = [rows.unflatten(0, (groups, -1)).transpose(0, 1) for rows in inputs]
        parts = zip(*(rows.split(self.at_once) for rows in by_particle), strict=True)

        def attempt() -> Tensor:
            done = [function(*(rows.flatten(0, 1) for rows in part)) for part in parts]
            return torch.cat(done).unflatten(0, (-1, groups)).transpose(0, 1).flatten(0, 1)

        return unless_out_of_memory(attempt)

    def _evaluate(self, x: Tensor, sigma_ve: Tensor) -> Tensor:
        """D of some particles of every image, by particle: [n G, ...]."""
        mm.throw_exception_if_processing_interrupted()
        level = self.levels.nearest(sigma_ve)
        sigma = self.levels.sigma[level].expand(len(x)).clone()
        around = self.inpainting.times(len(x) // len(self.inpainting.noise))
        model = KSamplerX0Inpaint(self.guider, self.levels.sigma)
        model.latent_image, model.noise = around.kept, around.noise
        own = x * self.levels.signal[level].clone()
        return model(own, sigma, denoise_mask=around.mask, **self.options)


class ParticleWeight:
    """log w of particles [G N, ...], some rows at a time; its gradient where may be painted.

    Args:
        inner: log w on whole images.
        rows: most of them at once.
        mask: [G N, ...], or None.
    """

    def __init__(self, inner: LogWeight, rows: int, mask: Tensor | None) -> None:
        self.inner, self.rows, self.mask, self.name = inner, rows, mask, inner.name

    def __call__(self, denoised: Tensor) -> Tensor:
        """log w, one per row."""
        return torch.cat([self._checked(self.inner, part) for part in denoised.split(self.rows)])

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(log w, gradient like ``denoised``)."""
        rows = denoised.split(self.rows)
        parts = [self._checked(self.inner.value_and_grad, part) for part in rows]
        log_w, grad = (torch.cat(whole) for whole in zip(*parts, strict=True))
        return log_w, grad if self.mask is None else grad * self.mask

    @staticmethod
    def _checked(function: Callable[[Tensor], Any], part: Tensor) -> Any:
        """A look at the stop button, then at the images."""
        mm.throw_exception_if_processing_interrupted()
        return function(part)


class NoWeight:
    """log w = 0: strength 0."""

    name = "none"

    def __call__(self, denoised: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(len(denoised))

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros."""
        return self(denoised), torch.zeros_like(denoised)


def start(sampling: Any, levels: Levels, noise: Tensor, kept: Tensor, full: bool) -> Tensor:
    """First particles [G, N, ...], variance-exploding, as KSampler would begin from each noise.

    Args:
        sampling: ComfyUI's ``model_sampling``.
        levels: of the run.
        noise: [G, N, ...] unit noise.
        kept: [G, ...].
        full: whether the run starts from pure noise.
    """
    copies = noise.shape[1]
    flat, repeated = noise.flatten(0, 1), kept.repeat_interleave(copies, 0)
    x: Tensor = sampling.noise_scaling(levels.sigma[0], flat, repeated, full)
    return (x / per_sample(levels.signal[:1], x)).unflatten(0, (-1, copies))
