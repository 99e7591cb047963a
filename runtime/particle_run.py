"""A sampling run with particles: ComfyUI prepares it as for KSampler, the particle engine walks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_management as mm
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from tqdm.auto import tqdm

from ..guidance import DifferenceStep, LogWeight, StepRecord, Trace
from ..guidance.particles import (
    PRESETS,
    RESAMPLING,
    TEMPERING,
    Particles,
    ParticleSampler,
    ParticleTrace,
    Progress,
    best,
    diverse,
    draw,
    everything,
    gather,
    group_seeds,
    noisy_start,
    particle_preset,
)
from ..rewards import Weight
from .caches import warn_of_caches, without_caches
from .checks import check_latent
from .decoded_weight import DecodedLogWeight
from .decoders import decoder_of
from .gradient import KEPT
from .lookahead import SamplerRun
from .memory import GIGABYTE, forward_bytes
from .options import Options
from .particle_model import (
    Inpainting,
    Levels,
    NoWeight,
    ParticleModel,
    ParticleWeight,
    chain_of,
    start,
)
from .run import announce, at_step, difference_step, load_together, warn_of_masks
from .sampling import SamplerInputs
from .strengths import measured, warn_of_strength

FROM_METHOD = "from method"
OUTPUTS = ("best", "draw", "diverse", "all")
NEED_GRADIENT = ("lags", *(name for name, preset in PRESETS.items() if preset.needs_vjp))
CACHES_AND_PARTICLES = (
    "Particles change places between steps, where it would give one another's answer, so the whole "
    "run goes past it and takes its full time. Removing that node changes nothing here."
)
ROOM = 0.8  # of the free memory, for particles at once


@dataclass(frozen=True)
class Choices:
    """What the user chose of the method; -1, 0 or 'from method' leaves it as published.

    Attributes:
        method: a name of ``PRESETS``.
        particles: of each image.
        resampling: a name of ``RESAMPLING``.
        ess_threshold: share of the particles; -1 as the method has it.
        tempering: a name of ``TEMPERING``.
        evaluate_every: steps between two evaluations of the weight; 0 as the method has it.
        particles_at_once: particles of each image in one evaluation; 0 as many as fit.
        output: one of ``OUTPUTS``.
        count: images to put out by 'draw' and 'diverse'.
    """

    method: str = "lags"
    particles: int = 4
    resampling: str = FROM_METHOD
    ess_threshold: float = -1.0
    tempering: str = FROM_METHOD
    evaluate_every: int = 0
    particles_at_once: int = 0
    output: str = OUTPUTS[0]
    count: int = 1

    def __post_init__(self) -> None:
        for what, value, known in (
            ("method", self.method, PRESETS),
            ("resampling", self.resampling, (FROM_METHOD, *RESAMPLING)),
            ("tempering", self.tempering, (FROM_METHOD, *TEMPERING)),
            ("output", self.output, OUTPUTS),
        ):
            if value not in known:
                raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}.")
        if self.particles < 1:
            raise ValueError(f"particles is {self.particles}; expected 1 or more for each image.")
        if self.method == "das_1p" and self.particles != 1:
            raise ValueError(
                f"Method 'das_1p' is DAS with one particle, and particles is {self.particles}: set "
                "it to 1, or choose 'das'."
            )
        if self.ess_threshold != -1 and not 0 <= self.ess_threshold <= 1:
            raise ValueError(
                f"ess_threshold is {self.ess_threshold}; expected 0 (never) to 1, or -1 as the "
                "method has it."
            )
        if self.output == "diverse" and not 1 <= self.count <= self.particles:
            raise ValueError(
                f"count is {self.count} and particles is {self.particles}: 'diverse' can give 1 to "
                "all of the particles. Lower count or raise particles."
            )
        if self.evaluate_every < 0 or self.particles_at_once < 0 or self.count < 1:
            raise ValueError(
                f"evaluate_every is {self.evaluate_every}, particles_at_once is "
                f"{self.particles_at_once}, count is {self.count}; expected at least 0, 0 and 1."
            )

    def engine(
        self, steps: int, difference: DifferenceStep, is_off: bool = False
    ) -> ParticleSampler:
        """The method with these choices made; for a weight that is off, plain particles."""
        if is_off:
            return particle_preset("smc", steps)
        engine = particle_preset(self.method, steps, difference)
        if self.resampling != FROM_METHOD:
            engine = replace(engine, resampling=RESAMPLING[self.resampling])
        if self.ess_threshold != -1:
            engine = replace(engine, ess_threshold=self.ess_threshold)
        if self.tempering != FROM_METHOD:
            engine = replace(engine, tempering=TEMPERING[self.tempering])
        return replace(engine, interval=self.evaluate_every or engine.interval)

    def picked(self, particles: Particles, seeds: Sequence[int]) -> Tensor:
        """Which particles to put out, [G, K]; each image draws by its own seed."""
        if self.output == "best":
            return best(particles)
        if self.output == "all":
            return everything(particles)
        if self.output == "diverse":
            return diverse(particles, self.count)
        return draw(particles, seeds, self.count)


@dataclass
class ParticleRunTrace(Trace):
    """A trace with all that the engine noted: ESS, resampling, ancestors.

    Attributes:
        particles: the engine's records; None before the run's end.
    """

    particles: ParticleTrace | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        told = None if self.particles is None else self.particles.to_dict()
        return {**super().to_dict(), "particles": told}


class ParticleRun:
    """Particles on a MODEL in place of a sampler's steps; inpainting, previews and patches stay.

    Args:
        inputs: of the node.
        choices: the method and its numbers.
        weight: log w on images; one that is off runs plain particles.
        trace: receives one record per step.

    Attributes:
        particles: the result; latents in model space.
        index: [G, K] the particles put out.

    Raises:
        ValueError: the VAE does not belong to the model, or there is no such decoder.
        ModelFileError: the decoder's file is missing.
    """

    particles: Particles
    index: Tensor

    def __init__(
        self, inputs: SamplerInputs, choices: Choices, weight: Weight, trace: ParticleRunTrace
    ) -> None:
        self.choices, self.weight, self.trace = choices, weight, trace
        self.sampler_name, options = inputs.sampler_name, inputs.options or Options()
        self.decoding = options.decoding
        self.decoder = decoder_of(self.decoding, inputs.vae, inputs.model)
        self.difference = options.difference(difference_step(inputs.model))
        # Each image's noise hangs on its number in the batch that it was taken from.
        latent = inputs.latent_image
        indices = list(latent.get("batch_index") or range(len(latent["samples"])))
        every = group_seeds(inputs.seed, max(indices) + 1)
        self.seeds = [every[index] for index in indices]

    def apply(self, model: Any) -> Any:
        """A clone of the MODEL that samples so; the user's own stays as it is."""
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "lags_particles", self.sample)
        return patched

    def sample(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """In place of a sampler's run: the chosen particles [G K, ...], model space."""
        check_latent(noise, guider.model_patcher)
        sampling = guider.inner_model.model_sampling
        chain, levels = chain_of(self.sampler_name, sampling), Levels.of(sampling, sigmas)
        noise = noise.float()
        kept = torch.zeros_like(noise) if latent_image is None else latent_image.float()
        inpainting = Inpainting.of(noise, kept, denoise_mask)
        at_once = self._loaded(guider, noise.shape)
        if not self.weight.is_off or at_once < self.choices.particles:
            options = extra_args["model_options"]
            warn_of_caches(options, CACHES_AND_PARTICLES)
            extra_args = {**extra_args, "model_options": without_caches(options)}
        model = ParticleModel(guider, levels, inpainting, extra_args, at_once)
        # The first particle begins as KSampler would; the others with noise of their own.
        more = noisy_start(torch.zeros_like(noise), self.choices.particles - 1, 1.0, self.seeds)
        noises = torch.cat([noise[:, None], more], dim=1)
        full = executor.class_obj.max_denoise(guider, levels.sigma)
        x = start(sampling, levels, noises, kept, full)
        steps = len(levels.sigma) - 1
        weight = self.weight
        warn_of_strength(weight, self.trace)
        warn_of_masks(weight, noise.shape, self.trace)
        if not weight.is_measured:
            none = self._decoded(weight, guider)
            of_run = guider, sigmas, extra_args, noise, latent_image, denoise_mask, none, self.trace
            weight = measured(SamplerRun(*of_run), weight, partial(self._decoded, guider=guider))
        self.trace.strengths.update(weight.strengths)
        log_weight = self._log_weight(model, weight)
        engine = self.choices.engine(steps, self.difference, self.weight.is_off)
        engine = replace(engine, chain=chain)
        with tqdm(total=steps, disable=disable_pbar) as bar:
            shown = _shown(self.trace, callback, bar)
            # After the last step the weight looks at the finished images.
            with at_step(lambda: min(len(self.trace.records) + 1, steps), steps):
                self.particles = engine(
                    model, log_weight, x, levels.sigma_ve, self.seeds, callback=shown
                )
        self.trace.particles = self.particles.trace
        self.index = self.choices.picked(self.particles, self.seeds)
        chosen = gather(self.particles, self.index).flatten(0, 1)
        return sampling.inverse_noise_scaling(levels.sigma[-1], chosen)

    def _loaded(self, guider: Any, shape: torch.Size) -> int:
        """Load what the run needs beside the model; how many particles to evaluate at once."""
        self.trace.clear()
        own = forward_bytes(guider, shape)
        copies = 1.0
        if not self.weight.is_off:
            log_weight = self._decoded(self.weight, guider)
            announce(log_weight, shape)
            if PRESETS[self.choices.method].needs_vjp:
                copies = KEPT
                logging.info(
                    "LAGS: method '%s' goes backward through the model: about %.2f GB for one "
                    "particle of %d images, its blocks computed again. 'lags' needs none of it.",
                    *(self.choices.method, KEPT * own / GIGABYTE, shape[0]),
                )
            # As if for more images: the backward pass of one takes the memory of several.
            load_together(guider, log_weight, torch.Size((round(copies * shape[0]), *shape[1:])))
            self.decoder.check()
            own = max(copies * own, shape[0] * log_weight.bytes_per_image(shape))
        if self.choices.particles_at_once:
            return self.choices.particles_at_once
        free = ROOM * mm.get_free_memory(guider.model_patcher.load_device)
        return int(min(max(1, free // max(1.0, own)), self.choices.particles))

    def _decoded(self, weight: Weight, guider: Any) -> DecodedLogWeight:
        side = self.decoding.side_for(self.weight)
        return DecodedLogWeight(self.decoder, weight, side, partial(load_together, guider))

    def _log_weight(self, model: ParticleModel, weight: Weight) -> LogWeight:
        """log w of all particles."""
        if weight.is_off:
            return NoWeight()
        copies, mask = self.choices.particles, model.inpainting.mask
        rows = model.at_once * len(model.inpainting.noise)
        spread = None if mask is None else mask.repeat_interleave(copies, 0)
        return ParticleWeight(self._decoded(weight, model.guider), rows, spread)


def _shown(trace: Trace, callback: Any, bar: Any) -> Callable[[Progress], None]:
    """What happens after each step: the trace, the page's preview of the best, the console."""

    def show(progress: Progress) -> None:
        trace.add(_record(progress))
        groups, leader = torch.arange(len(progress.log_w)), progress.log_w.argmax(dim=1)
        if callback is not None:
            at = progress.denoised.device
            image = progress.denoised[groups.to(at), leader.to(at)]
            callback(progress.step, image, image, progress.steps)
        bar.update()

    return show


def _record(progress: Progress) -> StepRecord:
    """A step in the terms of a trace: alpha is the tempering, calls are of all particles."""
    record, count = progress.record, progress.log_w.shape[1]
    weighed, pushed = record.weighing is not None, bool((record.cost > 0).any())
    return StepRecord(
        sigma_ve=torch.tensor([record.sigma_ve]),
        active=weighed or pushed,
        alpha=record.weighing.temperature if record.weighing is not None else None,
        log_w=progress.log_w.flatten() if weighed or pushed else None,
        predicted_gain=None,
        shift_rms=None,
        denoised_rms=None,
        model_calls=record.model_calls * count,
        weight_calls=record.gradient_calls * count,
        seconds=record.seconds,
        value_calls=(record.weight_calls - record.gradient_calls) * count,
        model_backwards=record.model_backwards * count,
        ess=record.weighing.ess / count if weighed else None,
        resampled=record.weighing.resampled if weighed else None,
    )
