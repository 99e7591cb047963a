"""Guidance as two wrappers on a cloned MODEL, so that every sampler node of ComfyUI obeys it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import estimate_memory
from torch import Tensor

from ..guidance import (
    LAGS,
    DifferenceStep,
    HeldLogWeight,
    LogWeight,
    ModelError,
    StepRecord,
    Trace,
    VEView,
    WeightError,
    ancestral_keep,
    score_deviation,
    ve_view,
)
from ..rewards import Weight
from ..rewards.masked import region, stretched
from .caches import past_caches, past_other_packs, warn_of_caches
from .checks import check_latent, check_vae
from .decoded_weight import DecodedLogWeight, MaskedLogWeight
from .decoders import Decoder, Decoding, choose
from .memory import (
    GIGABYTE,
    back_on_device,
    make_room,
    no_room_for_model,
    patchers_of_a_run,
    unless_out_of_memory,
)
from .models import load
from .rng_snapshot import Before


def difference_step(model: Any) -> DifferenceStep:
    """The finite-difference step that suits a MODEL's precision and parametrisation."""
    dtype = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    sampling = model.get_model_object("model_sampling")
    one = torch.ones(1, 1, 1, 1)
    low, high = (
        float(sampling.calculate_denoised(torch.full((1,), s), one, torch.zeros_like(one)).abs())
        for s in (0.1, 10.0)
    )
    return DifferenceStep(dtype=dtype, output_gain=(low, high))


@dataclass
class Run:
    """What one sampling run needs beside the model; lives in that run's model_options only."""

    log_weight: DecodedLogWeight
    sigmas: Tensor
    mask: Tensor | None  # of inpainting
    kept: Tensor | None
    region: Tensor | None  # where the weight acts, [1, 1, h, w]; None for everywhere
    ancestral: bool  # whether the sampler's steps draw from the posterior of the next noise level
    held: HeldLogWeight  # of log_weight: its gradient may serve several evaluations

    def keep(self, timestep: Tensor, view: VEView) -> float:
        """What the sampler's step from here keeps of x - D; 1 where its steps are of another kind.

        Flow models have an ancestral step of their own.
        """
        exploding = bool((view.sigma_ve == timestep.float()).all())
        if not (self.ancestral and exploding):
            return 1.0
        return ancestral_keep(self.sigmas, float(timestep.flatten()[0]))

    def step(self, timestep: Tensor) -> int:
        """Which step of the sampler an evaluation is in, from 1; samplers also look in between."""
        return int((self.sigmas[:-1] >= float(timestep.flatten()[0]) * (1 - 1e-4)).sum())


# The samplers of first order whose step is the exact posterior of the next noise level given D.
ANCESTRAL = ("sample_euler_ancestral", "sample_ddpm")


def is_ancestral(sampler: Any) -> bool:
    """Whether a sampler is one of these, with its noise as it should be."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    settings = getattr(sampler, "extra_options", {})
    return name in ANCESTRAL and all(settings.get(key, 1) == 1 for key in ("eta", "s_noise"))


CACHES_AND_GUIDANCE = (
    "A guided step compares evaluations, so it goes past that and takes its full time; steps that "
    "are not guided use it as ever. For more of its speed choose mode 'fast', with the strength of "
    "the weight set by hand, or remove that node for the exact picture."
)


class GuidancePatch:
    """LAGS on a MODEL.

    Args:
        method: what to do at a noise level.
        weight: log w on images.
        vae: decodes the denoised latents for the weight, unless another decoder does.
        trace: receives one record per evaluation; a run clears it first.
        decoding: which decoder, and at which size.
    """

    decoder: Decoder

    def __init__(
        self,
        method: LAGS,
        weight: Weight,
        vae: Any,
        trace: Trace,
        decoding: Decoding | None = None,
    ) -> None:
        self.method, self.weight, self.vae, self.trace = method, weight, vae, trace
        self.decoding = decoding or Decoding()
        self.key = f"lags_{id(self)}"

    def apply(self, model: Any) -> Any:
        """A clone of the MODEL that samples with guidance; the user's own stays as it is.

        Raises:
            ValueError: the VAE does not belong to the model's latents, or they have no such
                decoder.
            ModelFileError: the decoder's file is missing.
        """
        check_vae(self.vae, model)
        latent_format = model.get_model_object("latent_format")
        # Asked through the model at each use: what patches it may replace the format for a run.
        self.decoder = choose(
            self.decoding.decoder,
            self.vae,
            latent_format,
            lambda denoised: model.model.process_latent_out(denoised),
        )
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, self.key, self.sampler_sample)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, self.key, self.predict_noise)
        return patched

    def sampler_sample(
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
        """Around a whole run: load the VAE beside the model, and note mask and kept picture."""
        check_latent(noise)
        options = extra_args["model_options"]
        if self.method.jacobian or not self.weight.is_measured:
            warn_of_caches(options, CACHES_AND_GUIDANCE)
            options = past_other_packs(options)
        log_weight = self._decoded(self.weight, guider)
        announce(log_weight, noise.shape)
        load_together(guider, log_weight, noise.shape)
        region = _region(self.weight, noise)
        ancestral = is_ancestral(executor.class_obj)
        held = self._held(log_weight)
        run = Run(log_weight, sigmas, denoise_mask, latent_image, region, ancestral, held)
        self.trace.clear()
        if self.method.tilt_start and bool(noise.any()):  # no noise: another sampler's run goes on
            full = executor.class_obj.max_denoise(guider, sigmas)
            noise = self._tilted(noise, guider, run, extra_args, full)
        extra_args = {**extra_args, "model_options": {**options, self.key: run}}
        return executor(
            guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )

    def _decoded(self, weight: Weight, guider: Any) -> DecodedLogWeight:
        side = self.decoding.side_for(self.weight)
        return DecodedLogWeight(self.decoder, weight, side, partial(load_together, guider))

    def _held(self, log_weight: DecodedLogWeight) -> HeldLogWeight:
        return HeldLogWeight(log_weight, self.method.reuse)

    def _tilted(
        self, noise: Tensor, guider: Any, run: Run, extra_args: dict[str, Any], full: bool
    ) -> Tensor:
        """The first noise drawn from w p: moved so that the sampler's first x is."""
        scaling = guider.inner_model.model_sampling.noise_scaling
        sigma = run.sigmas[0]
        timestep = sigma.expand(noise.shape[0])
        view = ve_view(scaling, timestep)
        if not view.is_usable or not bool(self.method.is_active(view.sigma_ve).any()):
            return noise
        options = past_caches(extra_args["model_options"])  # without the run: plain evaluations
        x = scaling(sigma, noise, run.kept, full)

        def plain(*arguments: Any) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            result: Tensor = guider(*arguments)
            return result

        seed = extra_args.get("seed")
        denoiser = Evaluations(plain, guider, x, timestep, view, options, seed)
        with at_step(lambda: 1, len(run.sigmas) - 1):
            log_weight = self._log_weight(run, denoiser)
            taken = run.held.taken
            moved, record = self.method.tilted_start(
                denoiser, log_weight, denoiser.x_ve, view.sigma_ve
            )
        self.trace.add_start(_counted(record, run, taken))
        run.held = self._held(run.log_weight)  # the first step is at another x
        shift = view.from_ve(moved - denoiser.x_ve)
        for mask in (run.mask, run.region):
            shift = shift if mask is None else shift * mask
        return noise + shift / scaling(sigma, torch.ones_like(noise), noise * 0, full)

    def _log_weight(self, run: Run, denoiser: Evaluations) -> LogWeight:
        """log w under all masks, at a noise level; automatic strengths are chosen at the first."""
        if not run.log_weight.weight.is_measured:
            self._measure(run, denoiser)
        self.trace.strengths.update(run.log_weight.weight.strengths)
        return _under_masks(run.held, run, denoiser)

    def _measure(self, run: Run, denoiser: Evaluations) -> None:
        """Choose the weight's automatic strengths by the run's first denoised pictures."""
        x, sigma = denoiser.x_ve, denoiser.view.sigma_ve
        step = replace(self.method.step, whole=False)  # how a score varies here, not how far off
        scores, deviations = {}, {}
        for i, term in enumerate(self.weight.terms):
            if not term.is_known:
                alone = Weight.of(term.reward, 1.0)
                scores[i] = self._held(self._decoded(alone, denoiser.guider))
                score_here = _under_masks(scores[i], run, denoiser)
                deviations[i] = score_deviation(denoiser, score_here, x, sigma, step)
        weight = self.weight.measured(deviations)
        run.log_weight = self._decoded(weight, denoiser.guider)
        run.held = self._held(run.log_weight)
        if len(scores) == len(weight.terms):
            _recall(run, list(scores.values()))
        self.trace.measured = tuple(weight.labels[i] for i in deviations)
        announce_strengths(self.weight, weight, deviations)

    def predict_noise(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Around one evaluation: the guided denoised latents instead of the plain ones."""
        options = model_options or {}
        run: Run | None = options.get(self.key)
        guider = executor.class_obj
        view = ve_view(guider.inner_model.model_sampling.noise_scaling, timestep)
        if run is None or not view.is_usable:  # no run to guide, or a flow model at pure noise
            return executor(x, timestep, options, seed)

        if self._compares(run, view):
            options = past_caches(options)
        back_on_device(guider, x.shape)
        denoiser = Evaluations(executor, guider, x, timestep, view, options, seed)
        with at_step(lambda: run.step(timestep), len(run.sigmas) - 1):
            log_weight = self._log_weight(run, denoiser)
            keep, taken = run.keep(timestep, view), run.held.taken
            denoised, record = self.method(denoiser, log_weight, denoiser.x_ve, view.sigma_ve, keep)
        self.trace.add(_counted(record, run, taken))
        if run.region is None or not record.active:
            return denoised
        # J v spreads what is asked for to where it is likely too; a masked weight is to stay put.
        plain = denoiser(denoiser.x_ve, view.sigma_ve)
        return torch.lerp(plain, denoised, run.region.to(denoised))

    def _compares(self, run: Run, view: VEView) -> bool:
        """Whether answers of the model at a noise level are compared, or gone back through."""
        if not run.log_weight.weight.is_measured:
            return True
        return self.method.jacobian and bool(self.method.is_active(view.sigma_ve).any())


class Evaluations:
    """The model as a denoiser on x_ve: the sampler's own call first, further ones on moved x."""

    def __init__(
        self,
        model: Any,
        guider: Any,
        x: Tensor,
        timestep: Tensor,
        view: VEView,
        options: dict[str, Any],
        seed: int | None,
    ) -> None:
        self.model, self.guider, self.x, self.timestep = model, guider, x, timestep
        self.view, self.options, self.seed = view, options, seed
        self.x_ve = view.to_ve(x)
        self.own: Tensor | None = None
        self.branches: list[Tensor] = []  # of the own call: with and without the prompt
        self.before = Before(self._options_of_the_user(), x.device)
        self.is_short = False  # of memory: the branches are evaluated one after the other

    def __call__(self, x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        if x_ve is self.x_ve:
            if self.own is None:
                options = self._branch_by(self.options, self._both)
                self.own = self._evaluated(self.x, options)
            return self.own
        return self._further(x_ve, self._options_of_the_user())

    def conditional(self, x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        """The output at a moved x, as if both branches moved like the one with the prompt.

        Everything that acts on the branches, or on what becomes of them, runs as ever. Where there
        are no two branches, or a guider of another kind keeps them to itself, both are evaluated.
        """
        options = self._options_of_the_user()
        if self.branches:
            options = self._branch_by(options, self._one)
        return self._further(x_ve, options)

    def _further(self, x_ve: Tensor, options: dict[str, Any]) -> Tensor:
        mm.throw_exception_if_processing_interrupted()
        with self.before.again():
            return self._evaluated(self.view.from_ve(x_ve), options)

    def _evaluated(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        """The model's answer; where memory runs out, once more with as little of it as will do.

        Raises:
            torch.cuda.OutOfMemoryError: it does not fit even so.
        """
        answer = self._try(x, options)
        if answer is None:
            logging.warning(
                "LAGS: not enough memory for the diffusion model beside the weight's models; "
                "trying again without them, and one branch at a time."
            )
            make_room(self.guider)
            self.is_short = True
            with self.before.rewound():
                answer = self._try(x, self._branch_by(options, self._each))
        if answer is None:
            remedy = "Make the picture or the batch smaller"
            if self.own is not None:  # it was a further one that did not fit
                remedy += ", or take LAGS in mode 'fast', which evaluates the model once a step"
            raise no_room_for_model(self.guider, x.shape, f"{remedy}.")
        return answer

    def _try(self, x: Tensor, options: dict[str, Any]) -> Tensor | None:
        """The model's answer, or None where memory ran out."""

        def attempt() -> Tensor:
            answer: Tensor = self.model(x, self.timestep, options, self.seed)
            return answer

        return unless_out_of_memory(attempt)

    @staticmethod
    def _branch_by(options: dict[str, Any], function: Any) -> dict[str, Any]:
        """model_options whose branches a function evaluates, unless another pack's does already."""
        return {"sampler_calc_cond_batch_function": function, **options}

    def _both(self, args: dict[str, Any]) -> list[Tensor]:
        """The branches, remembered where there are two."""
        conds, outputs = args["conds"], self._each(args)
        if len(conds) == 2 and conds[1] is not None:
            self.branches = [output.clone() for output in outputs]
        return outputs

    def _each(self, args: dict[str, Any]) -> list[Tensor]:
        """ComfyUI's own evaluation of the branches; short of memory, one after the other."""
        conds, options = args["conds"], self._without(args["model_options"])

        def outputs(conds: list[Any]) -> list[Tensor]:
            found: list[Tensor] = comfy.samplers.calc_cond_batch(
                args["model"], conds, args["input"], args["sigma"], options
            )
            return found

        if not self.is_short:
            return outputs(conds)
        # Each keeps its place: patches tell the branches by it.
        alone = [[c if i == k else None for i, c in enumerate(conds)] for k in range(len(conds))]
        found = []
        for k, branches in enumerate(alone):
            with self.before.rewound():  # in one batch patches draw once for both
                found.append(outputs(branches)[k])
        return found

    def _one(self, args: dict[str, Any]) -> list[Tensor]:
        """The branch with the prompt; the other is taken to move as far."""
        options = self._without(args["model_options"])
        (cond,) = comfy.samplers.calc_cond_batch(
            args["model"], args["conds"][:1], args["input"], args["sigma"], options
        )
        before, other = self.branches
        return [cond, other + (cond - before)]

    @staticmethod
    def _without(options: dict[str, Any]) -> dict[str, Any]:
        """model_options as they were before the branches were looked at."""
        name = "sampler_calc_cond_batch_function"
        return {key: value for key, value in options.items() if key != name}

    def _options_of_the_user(self) -> dict[str, Any]:
        """model_options without caches, and without what the sampler put in for its own call.

        CFG++ samplers hook the call to catch the unconditional prediction; a further call must not
        overwrite what they caught.
        """
        own = self.guider.model_options
        options = dict(past_caches(self.options))
        for name in ("sampler_post_cfg_function", "disable_cfg1_optimization"):
            options.pop(name, None)
            if name in own:
                options[name] = own[name]
        return options


@contextmanager
def at_step(step: Callable[[], int], steps: int) -> Iterator[None]:
    """Say at which step it was, from 1, that a weight or the model broke its contract."""
    try:
        yield
    except (WeightError, ModelError) as error:
        error.args = (f"{error} It was in step {step()} of {steps}.",)
        raise


def _under_masks(log_weight: LogWeight, run: Run, at: Evaluations) -> LogWeight:
    """A log-weight restricted to its region, and to what the sampler may paint at this level."""
    if run.region is not None:
        log_weight = MaskedLogWeight(log_weight, run.region)
    if run.mask is None or run.kept is None:
        return log_weight
    mask = run.mask
    if "denoise_mask_function" in at.options:  # differential diffusion: it changes with sigma
        extra = {"model": at.guider, "sigmas": run.sigmas}
        mask = at.options["denoise_mask_function"](at.timestep, mask, extra_options=extra)
    return MaskedLogWeight(log_weight, mask, run.kept)


def _recall(run: Run, scores: list[HeldLogWeight]) -> None:
    """What measuring has found out at the first picture: log w and its gradient, for their sum."""
    terms = run.log_weight.weight.terms
    known = [score.known for score in scores if score.known is not None]
    values = [t.strength * value for t, (_, value, _) in zip(terms, known, strict=True)]
    gradients = [t.strength * v for t, (_, _, v) in zip(terms, known, strict=True)]
    run.held.know(known[0][0], torch.stack(values).sum(dim=0), torch.stack(gradients).sum(dim=0))
    labels = run.log_weight.weight.labels
    run.log_weight.terms = {
        label: value.float().cpu() for label, value in zip(labels, values, strict=True)
    }


def _region(weight: Weight, noise: Tensor) -> Tensor | None:
    """Where a weight acts, as a mask of the latents' size: every cell that it touches."""
    mask = region(weight)
    if mask is None:
        return None
    return torch.nn.functional.adaptive_max_pool2d(
        stretched(mask, *(8 * side for side in noise.shape[-2:]))[None, None], noise.shape[-2:]
    ).to(noise)


def _counted(record: StepRecord, run: Run, taken: int) -> StepRecord:
    """A record with the gradients that were really taken since, and log w factor by factor."""
    asked = record.active and record.weight_calls > 0  # for the gradient: terms are noted with it
    terms = run.log_weight.terms if asked and run.held.fresh else None
    return replace(record, terms=terms, weight_calls=run.held.taken - taken)


def load_together(guider: Any, log_weight: DecodedLogWeight, shape: torch.Size) -> None:
    """Model, its helpers, VAE and reward models in one call, so that none of them evicts another.

    The forward of the model and the backward of the decoder take turns, so the larger need counts.
    """
    model, decoder = guider.model_patcher, log_weight.decoder
    weight_bytes = log_weight.bytes_per_picture(shape)
    own, _ = estimate_memory(model, shape, guider.conds)
    beside = patchers_of_a_run(guider)
    if decoder.device != model.load_device:  # a VAE on the CPU takes nothing from the GPU
        mm.load_models_gpu([*decoder.patchers], memory_required=weight_bytes)
    else:
        beside += decoder.patchers
        own = max(own, weight_bytes)
    load([*log_weight.weight.modules, *decoder.modules], beside, own)


def announce_strengths(asked: Weight, weight: Weight, deviations: dict[int, float]) -> None:
    """Say which strengths were chosen, for the terms whose score was measured to vary by that."""
    for i, deviation in deviations.items():
        logging.info(
            "LAGS: the strength of weight '%s' is %.6g: %g nats for a standard deviation of %.4g "
            "in its score.",
            weight.labels[i],
            weight.terms[i].strength,
            asked.terms[i].spread,
            deviation,
        )


def announce(log_weight: DecodedLogWeight, shape: torch.Size) -> None:
    """Say before a run what the weight will see, and what that takes."""
    height, width = log_weight.decoded_size(shape)
    kept, spared = (
        log_weight.bytes_per_picture(shape, sparing) / GIGABYTE for sparing in (False, True)
    )
    least = f", or {spared:.2f} GB if less is free" if spared < kept else ""
    logging.info(
        "LAGS: the weight sees %s at %dx%d; its gradient needs about %.2f GB a picture%s, beside "
        "the models.",
        log_weight.decoder.name,
        width,
        height,
        kept,
        least,
    )
