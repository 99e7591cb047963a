"""Guidance as wrappers on a cloned MODEL, so that every sampler node of ComfyUI obeys it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import comfy.k_diffusion.sampling as k_sampling
import comfy.model_management as mm
import comfy.samplers
import torch
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor, nn

from ..guidance import (
    LAGS,
    CachedGradient,
    DifferenceStep,
    FreeDoM,
    LogWeight,
    Lookahead,
    Message,
    Method,
    ModelError,
    PathWeights,
    Step,
    StepRecord,
    Trace,
    VEView,
    WeightError,
    ancestral_keep,
    plan,
    time_travel,
    ve_view,
)
from ..guidance.ve import SMALLEST_SIGNAL
from ..rewards import Weight
from ..rewards.masked import MaskedReward, region, stretched
from .caches import warn_of_caches, without_caches, without_other_packs
from .checks import check_latent
from .decoded_weight import DecodedLogWeight, MaskedLogWeight
from .decoders import Decoder, Decoding, decoder_of
from .evaluations import DifferentiableEvaluations, Evaluations
from .gradient import gradient_bytes, networks_of
from .guiders import Evaluate, ServedGuider, calls_wrappers, innermost, never_acted
from .lookahead import PlannedRun, SamplerRun, look_ahead
from .memory import GIGABYTE, back_on_device, forward_bytes, patchers_of_a_run
from .models import load
from .nested import Memory, check_pair, without_runs
from .page import warn
from .price import cost_in_words, price_of
from .strengths import measured, warn_of_strength


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
class Run(SamplerRun):
    """What one guided run needs beside the model; lives in that run's model_options only.

    Attributes:
        region: where the weight acts, [1, 1, h, w]; None for everywhere.
        kind: of the sampler's steps, which a shift has to fit: a value of ``STEPS``; None where
            they are of another kind.
        memory: from one evaluation to the next.
        method: bound to the run once it begins.
        networks: what a gradient has to pass, where the method goes through the model.
        path: what each image counts, on an ancestral sampler.
        is_under: whether another guidance compares what this one answers; then all is evaluated.
    """

    region: Tensor | None
    kind: str | None
    memory: Memory
    method: Method
    networks: list[nn.Module]
    path: PathWeights = field(default_factory=PathWeights)
    is_under: bool = False

    @cached_property
    def levels_ve(self) -> Tensor:
        """The sampler's noise levels, variance-exploding."""
        return ve_view(self.guider.inner_model.model_sampling.noise_scaling, self.levels).sigma_ve

    @cached_property
    def levels(self) -> Tensor:
        """The sampler's noise levels, where Python reads them."""
        return self.sigmas.detach().float().cpu()

    def keep(self, timestep: Tensor, view: VEView) -> float:
        """What the sampler's step from here keeps of x - D; 1 where its steps are of another kind.

        Flow models have an ancestral step of their own.

        Args:
            timestep: [B], on the CPU.
            view: of it.
        """
        if self.kind == "plain":
            return math.sqrt(ancestral_keep(self.levels_ve, float(view.sigma_ve[0])))
        if self.kind is None or not bool((view.sigma_ve == timestep).all()):
            return 1.0
        if self.kind == "redrawing":
            return 0.0
        return ancestral_keep(self.levels, float(timestep.flatten()[0]))

    @property
    def holds_guided_steps(self) -> bool:
        """Whether the method guides at any of the sampler's noise levels."""
        view = ve_view(self.guider.inner_model.model_sampling.noise_scaling, self.levels[:-1])
        clear = (view.signal > SMALLEST_SIGNAL) & (view.noise > 0)
        return bool(clear.any()) and bool(self.method.is_active(view.sigma_ve[clear]).any())

    def step_number(self, timestep: Tensor) -> int:
        """Which step of the sampler an evaluation is in, from 1; samplers also look in between."""
        return int((self.sigmas[:-1] >= float(timestep.flatten()[0]) * (1 - 1e-4)).sum())

    def weighed(
        self, record: StepRecord, at: Evaluations, step: Step, denoised: Tensor, level: float
    ) -> StepRecord:
        """A record with what each image counts at a noise level; as it is where that is not known.

        An inpainted image is put back in part, and a method's own sampler goes back in noise.
        """
        known = self.kind == "ancestral" and step.keep < 1 and self.mask is None
        if not known or self.method.own_sampler:
            return record
        plain = step.denoise(at, at.x_ve, at.view.sigma_ve)
        return record.weighed(self.path.step(at.x_ve, plain, denoised, level, step.keep))

    def look_ahead(self, count: int, steps: int, seed: int) -> Lookahead:
        """Quick finished images of the prompt, weighed; kept for the next run of the same."""
        return look_ahead(self, count, steps, seed)


# The samplers of first order whose step is the exact posterior of the next noise level given D.
ANCESTRAL = ("sample_euler_ancestral", "sample_ddpm")
# The samplers whose steps a shift can be made to fit, by kind: see guidance/step_correction.py.
STEPS = {
    **dict.fromkeys(ANCESTRAL, "ancestral"),
    "sample_lcm": "redrawing",  # fresh noise of the next noise level around D
    "sample_euler": "plain",  # ComfyUI's ddim too
}
USUAL = {"eta": 1, "s_noise": 1, "s_churn": 0}  # settings with which they are that


def kind_of(sampler: Any) -> str | None:
    """The kind of a sampler's steps, with its noise as it should be; None for another."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    settings = getattr(sampler, "extra_options", {})
    usual = all(settings.get(key, value) == value for key, value in USUAL.items())
    return STEPS.get(name) if usual else None


def is_ancestral(sampler: Any) -> bool:
    """Whether a sampler's step is the exact posterior of the next noise level given D."""
    return kind_of(sampler) == "ancestral"


def branches_of(guider: Any) -> int:
    """How many branches a guider's evaluation has: ComfyUI takes one alone where cfg is 1.

    A guider that combines branches in its own way has more.
    """
    guider = innermost(guider)
    combines = getattr(type(guider), "predict_noise", None)
    usual = combines is comfy.samplers.CFGGuider.predict_noise
    return 1 if usual and guider.cfg == 1 else 2


def warn_if_idle(run: Run) -> None:
    """Say before a run that its method will leave the image as it is."""
    if not isinstance(run.method, LAGS) or len(run.levels) < 2:
        return
    scaling = run.guider.inner_model.model_sampling.noise_scaling
    made = plan(run.method, run.levels[:-1], scaling)
    if not bool((ve_view(scaling, made.sigma).signal > SMALLEST_SIGNAL).any()):
        nothing = Message(
            "pure_noise",
            "The only noise level of this run is pure noise, which says nothing of the image yet: "
            "the image is a plain one. Take 2 steps or more.",
        )
        warn(run.trace, nothing)
    elif made.is_idle:
        idle = Message(
            "idle",
            "{method} changes next to nothing in these {steps} steps: its alpha is {alpha} at "
            "most, at sigma {sigma}. Few steps stay at high noise, where only mode 'balanced' "
            "acts; a lower uncertainty coefficient c, or more steps, serve too.",
            {
                "method": run.method.name,
                "steps": len(made.sigma),
                "alpha": float(f"{float(made.alpha.max()):.1e}"),
                "sigma": float(f"{float(made.sigma_ve.min()):.3g}"),
            },
        )
        warn(run.trace, idle)


def warn_of_masks(weight: Weight, shape: torch.Size, trace: Trace) -> None:
    """Say before a run which masks of a weight are drawn out of shape over its latents."""
    height, width = shape[-2:]
    for term in weight.terms:
        if not isinstance(term.reward, MaskedReward):
            continue
        high, wide = term.reward.mask.shape
        if abs(high * width / wide - height) >= 1 and abs(wide * height / high - width) >= 1:
            warning = Message(
                "mask_stretched",
                "The mask of weight '{name}' is {mask} and the latents are {latents}: it is "
                "stretched, so what it marks is out of shape. Make the mask from an image of the "
                "same proportions, or crop it to them.",
                {
                    "name": term.reward.name,
                    "mask": f"{wide} x {high}",
                    "latents": f"{width} x {height}",
                },
            )
            warn(trace, warning)


def announce_cost(run: Run) -> None:
    """Say before a run what it will cost; one without steps costs nothing."""
    if len(run.levels) < 2:
        return
    method, branches = run.method.bind(PlannedRun(run.levels)), branches_of(run.guider)
    scaling = run.guider.inner_model.model_sampling.noise_scaling
    made = plan(method, run.levels[:-1], scaling, 3.0, branches, bool(run.noise.any()))
    price = price_of(run.guider.model_patcher, run.log_weight, run.noise.shape)
    made = made if price is None else price.of(made)
    logging.info("LAGS: %d model calls, %s.", made.total_calls, cost_in_words(made, price))


CACHES_AND_GUIDANCE = (
    "A guided step compares evaluations, so it goes past that and takes its full time; steps that "
    "are not guided use it as ever. For more of its speed choose mode 'fast', or remove that node "
    "for the exact image."
)


class Guidance:
    """A method on a MODEL.

    Args:
        method: what to do at a noise level.
        weight: log w on images.
        vae: decodes the denoised latents for the weight, unless another decoder does.
        trace: receives one record per evaluation; a run clears it first.
        decoding: which decoder, and at which size.
    """

    decoder: Decoder
    runs = 0  # that have begun

    def __init__(
        self,
        method: Method,
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
            ValueError: the VAE does not belong to the model's latents, they have no such decoder,
                or the model or the weight is of a kind that the method cannot serve.
            ModelFileError: the decoder's file is missing.
        """
        self._check(model)
        self.decoder = decoder_of(self.decoding, self.vae, model)
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, self.key, self.sampler_sample)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, self.key, self.predict_noise)
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, self.key, self.outer_sample)
        return patched

    def _check(self, model: Any) -> None:
        check_pair(self.method, model)
        name, flow = self.method.name, isinstance(model.get_model_object("model_sampling"), CONST)
        if self.method.own_sampler and flow:
            raise ValueError(
                f"{name} travels back in noise, which its authors define for models that predict "
                "noise; this is a flow model. Take LAGS without a method, DPS or LiDAR."
            )

    def outer_sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        *others: Any,
        **named: Any,
    ) -> Any:
        """Around a guider's run: the method's own sampler, where it has one, for the user's.

        Raises:
            ValueError: the user's is of another kind, or the run went past ``sampler_sample``.
        """
        if self.method.own_sampler and not is_ancestral(sampler):
            name = getattr(getattr(sampler, "sampler_function", None), "__name__", "another")
            raise ValueError(
                f"{self.method.name} is an ancestral sampler of its own, and the sampler is "
                f"{name.removeprefix('sample_')!r}: set sampler_name to euler_ancestral, with eta "
                "and s_noise at 1."
            )
        own = comfy.samplers.KSAMPLER(self.own_sampler) if self.method.own_sampler else sampler
        before = self.runs
        samples = executor(noise, latent_image, own, *others, **named)
        if self.runs == before:
            raise never_acted(executor.class_obj, sampler)
        return samples

    def own_sampler(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any = None,
        disable: Any = None,
    ) -> Tensor:
        """A sampler of ComfyUI: the method's, or without a run an ancestral one."""
        draw = k_sampling.default_noise_sampler(x, seed=extra_args.get("seed"))
        run: Run | None = extra_args.get("model_options", {}).get(self.key)
        method = None if run is None else run.method
        rounds = method.rounds if isinstance(method, FreeDoM) else [1] * (len(sigmas) - 1)

        def look(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                sigmas_here = {"sigma": sigma, "sigma_hat": sigma}
                callback({"x": x, "i": step, "denoised": denoised, **sigmas_here})

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return model(x, sigma, **extra_args)

        return time_travel(denoiser, x, sigmas, rounds, lambda like: draw(None, None), look)

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
        """Around a whole run: load what it needs together, and bind the method to it.

        Raises:
            ValueError: latents that are no still images, or no step was guided that should be.
        """
        check_latent(noise, guider.model_patcher)
        self.runs += 1
        options = extra_args["model_options"]
        if self.method.through_model:
            logging.info(
                "LAGS: %s goes backward through the diffusion model, with its blocks computed "
                "again: about %.2f GB for this batch, beside the models and the weight's gradient.",
                self.method.name,
                gradient_bytes(guider, noise.shape) / GIGABYTE,
            )
        if self.method.compares:
            warn_of_caches(options, CACHES_AND_GUIDANCE)
            options = without_other_packs(options)
        log_weight = self._decoded(self.weight, guider)
        announce(log_weight, noise.shape)
        load_together(guider, log_weight, noise.shape)
        self.decoder.check()
        run = Run(
            guider=guider,
            sigmas=sigmas,
            extra_args=extra_args,
            noise=noise,
            kept=latent_image,
            mask=denoise_mask,
            region=_region(self.weight, noise),
            kind=kind_of(executor.class_obj),
            log_weight=log_weight,
            memory=Memory(self._cached(log_weight)),
            method=self.method.in_steps(len(sigmas) - 1, branches_of(guider)),
            trace=self.trace,
            networks=networks_of(guider) if self.method.through_model else [],
        )
        self.trace.clear()
        self._set_weight(run)
        warn_if_idle(run)
        warn_of_masks(self.weight, noise.shape, self.trace)
        announce_cost(run)
        if self.method.through_model:
            _make_room(guider, log_weight, noise.shape)
        if self.method.tilts_start and bool(noise.any()):  # no noise: another sampler's run goes on
            full = executor.class_obj.max_denoise(guider, sigmas)
            noise = self._tilted(noise, run, options, full)
        run.method = run.method.bind(run)
        extra_args = {**extra_args, "model_options": {**options, self.key: run}}
        served = guider if calls_wrappers(guider) else ServedGuider(guider, self._around(guider))
        others = noise, latent_image, denoise_mask, disable_pbar
        try:
            samples = executor(served, sigmas, extra_args, callback, *others)
        finally:
            self.trace.settle()
        if not self.trace.records and run.holds_guided_steps:
            raise never_acted(guider, executor.class_obj)
        if self.trace.no_sample is not None:
            logging.info("LAGS: %s", self.trace.no_sample)
        return samples

    def _plain(self, guider: Any) -> Evaluate:
        """The call of a guider as the sampler would make it without this guidance."""

        def plain(x: Tensor, timestep: Tensor, options: dict[str, Any], seed: int | None) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            # Without the run ``predict_noise`` lets it through, if it comes by the wrappers at all.
            others = {key: value for key, value in options.items() if key != self.key}
            return guider(x, timestep, model_options=others, seed=seed)

        return plain

    def _around(self, guider: Any) -> Evaluate:
        """Guidance around a guider's call: what ``predict_noise`` is where that runs wrappers."""
        wrapped = [self.predict_noise]
        return WrapperExecutor.new_class_executor(self._plain(guider), guider, wrapped).execute

    def _cached(self, log_weight: LogWeight) -> CachedGradient:
        return CachedGradient(log_weight, self.method.reuse, self.method.compares_values)

    def _decoded(self, weight: Weight, guider: Any) -> DecodedLogWeight:
        side = self.decoding.side_for(self.weight)
        return DecodedLogWeight(self.decoder, weight, side, partial(load_together, guider))

    def _tilted(self, noise: Tensor, run: Run, options: dict[str, Any], full: bool) -> Tensor:
        """The initial noise drawn from w p: moved so that the sampler's first x is."""
        guider, method = run.guider, run.method
        scaling = guider.inner_model.model_sampling.noise_scaling
        sigma = run.sigmas[0]
        timestep, here = (s[:1].expand(noise.shape[0]) for s in (run.sigmas, run.levels))
        view, view_here = ve_view(scaling, timestep), ve_view(scaling, here)
        if not view_here.is_usable or not bool(method.is_active(view_here.sigma_ve).any()):
            return noise
        x = scaling(sigma, noise, run.kept, full)
        seed = run.extra_args.get("seed")
        at = Evaluations(
            self._plain(guider),
            guider,
            x,
            timestep,
            view,
            without_runs(without_caches(options)),
            seed,
        )
        step = Step(own=at.own, levels=view_here.sigma_ve, state=run.memory.state)
        with at_step(lambda: 1, len(run.sigmas) - 1):
            run.method = method = method.detect_distilled(at, at.x_ve, view.sigma_ve, step)
            log_weight = _under_masks(run.memory.cached, run, at)
            before = copy(run.memory.cached)
            moved, record = method.tilted_start(at, log_weight, at.x_ve, view.sigma_ve, step)
        self.trace.add_start(_counted(record, run, before))
        # The first step is at another x.
        run.memory.cached = self._cached(run.log_weight)
        shift = view.from_ve(moved - at.x_ve)
        for mask in (run.mask, run.region):
            shift = shift if mask is None else shift * mask
        push = shift / scaling(sigma, torch.ones_like(noise), noise * 0, full)
        run.path.start(noise, push)
        return noise + push

    def _set_weight(self, run: Run) -> None:
        """Choose the weight's automatic strengths for a run that is about to begin."""
        weight = self.weight
        warn_of_strength(weight, self.trace)
        if not weight.is_measured:
            weight = measured(run, weight, partial(self._decoded, guider=run.guider))
            run.log_weight = self._decoded(weight, run.guider)
            run.memory.cached = self._cached(run.log_weight)
        self.trace.strengths.update(weight.strengths)

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
        if run is None:
            return executor(x, timestep, options, seed)
        options = {key: value for key, value in options.items() if key != self.key}
        guider, memory = executor.class_obj, run.memory
        scaling = guider.inner_model.model_sampling.noise_scaling
        # The GPU is waited for here: what follows from the noise level alone is decided on the CPU.
        (here,) = self.trace.settle(timestep)
        view, view_here = ve_view(scaling, timestep), ve_view(scaling, here)
        if not view_here.is_usable:  # a flow model at pure noise
            self.trace.unrecorded += not memory.is_aside
            return executor(x, timestep, options, seed)

        if self._compares(run, view_here):
            options = without_caches(options)
        back_on_device(guider, x.shape)
        if run.region is not None and run.region.shape[-2:] != x.shape[-2:]:
            run.region = _region(self.weight, x)  # the sampler has enlarged the latents
        at = self._evaluations(run, executor, guider, x, timestep, view, options, seed)
        for under in at.under:
            under.is_under = True
        draws = run.kind != "plain"
        keep, watched = run.keep(here, view_here), at.is_watched or run.is_under
        levels = view_here.sigma_ve
        step = Step(keep, draws, at.own, is_watched=watched, levels=levels, state=memory.state)
        with at_step(lambda: run.step_number(timestep), len(run.sigmas) - 1):
            log_weight, before = _under_masks(memory.cached, run, at), copy(memory.cached)
            denoised, record = run.method(at, log_weight, at.x_ve, view.sigma_ve, step)
        if run.region is not None and record.shift_rms is not None:
            # J v spreads a reward to where it is likely too; a masked weight is to stay put.
            plain = step.denoise(at, at.x_ve, view.sigma_ve)
            denoised = torch.lerp(plain, denoised, run.region.to(denoised))
        if not memory.is_aside:
            record = run.weighed(record, at, step, denoised, float(here.flatten()[0]))
            self.trace.pending = _counted(record, run, before)
        return denoised

    def _evaluations(self, run: Run, *evaluation: Any) -> Evaluations:
        if not self.method.through_model:
            return Evaluations(*evaluation)
        cfg = getattr(run.guider, "cfg", 1.0)
        return DifferentiableEvaluations(*evaluation, networks=run.networks, cfg=cfg)

    def _compares(self, run: Run, view: VEView) -> bool:
        """Whether answers of the model at a noise level are compared, or gone back through."""
        if run.method.through_model:
            return True
        return run.method.compares and bool(run.method.is_active(view.sigma_ve).any())


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


def _region(weight: Weight, noise: Tensor) -> Tensor | None:
    """Where a weight acts, as a mask of the latents' size: every cell that it touches."""
    mask = region(weight)
    if mask is None:
        return None
    return torch.nn.functional.adaptive_max_pool2d(
        stretched(mask, *(8 * side for side in noise.shape[-2:]))[None, None], noise.shape[-2:]
    ).to(noise)


def _counted(record: StepRecord, run: Run, before: CachedGradient) -> StepRecord:
    """A record with the gradients that were really computed since, and log w factor by factor."""
    cached = run.memory.cached
    measured = record.active and record.weight_calls > 0  # terms are noted with the gradient
    return replace(
        record,
        terms=run.log_weight.terms if measured and cached.is_fresh else None,
        weight_calls=cached.computed - before.computed,
        value_calls=record.value_calls + cached.asked - before.asked,
    )


def load_together(guider: Any, log_weight: DecodedLogWeight, shape: torch.Size) -> None:
    """Model, its helpers, VAE and reward models in one call, so that none of them evicts another.

    The forward of the model and the backward of the decoder take turns, so the larger need counts.
    """
    model, decoder = guider.model_patcher, log_weight.decoder
    weight_bytes = log_weight.bytes_per_image(shape)
    own = forward_bytes(guider, shape)
    beside = patchers_of_a_run(guider)
    if decoder.device != model.load_device:  # a VAE on the CPU takes nothing from the GPU
        mm.load_models_gpu([*decoder.patchers], memory_required=weight_bytes)
    else:
        beside += decoder.patchers
        own = max(own, weight_bytes)
    load([*log_weight.weight.modules, *decoder.modules], beside, own)


def _make_room(guider: Any, log_weight: DecodedLogWeight, shape: torch.Size) -> None:
    """Free what the gradient takes: its graph is there while the weight's is made too."""
    memory, beside = gradient_bytes(guider, shape), patchers_of_a_run(guider)
    if log_weight.decoder.device == guider.model_patcher.load_device:
        memory += log_weight.bytes_per_image(shape)
        beside += log_weight.decoder.patchers
    mm.load_models_gpu(beside, memory_required=memory)


def announce(log_weight: DecodedLogWeight, shape: torch.Size) -> None:
    """Say before a run what the weight will see, and what that takes."""
    height, width = log_weight.decoded_size(shape)
    logging.info(
        "LAGS: the weight sees %s at %dx%d; its gradient needs about %.2f GB an image, its value "
        "%.2f GB, beside the models.",
        log_weight.decoder.name,
        width,
        height,
        *(log_weight.bytes_per_image(shape, gradient) / GIGABYTE for gradient in (True, False)),
    )
