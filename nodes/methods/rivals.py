"""Rival methods, for the method socket of the guided samplers: DPS, FreeDoM, LiDAR."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import comfy.k_diffusion.sampling as k_sampling
import comfy.model_management as mm
import comfy.samplers
import torch
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ...guidance import DifferenceStep, LogWeight, StepRecord, Trace, ve_view
from ...guidance.contracts import checked_value
from ...guidance.methods.dps import DPS
from ...guidance.methods.freedom import (
    FIRST,
    LAST,
    PLAIN_STEP,
    REPEATS,
    STEP,
    TRAVEL_UNTIL,
    FreeDoM,
    Window,
)
from ...guidance.methods.freedom import time_travel as travel
from ...guidance.methods.lidar import SIGMA_END, STEPS, LiDAR, Lookahead
from ...rewards import Weight
from ...runtime.caches import past_caches
from ...runtime.decoders import Decoding
from ...runtime.memory import GIGABYTE, patchers_of_a_run
from ...runtime.model_gradient import DifferentiableModel, gradient_bytes, networks_of
from ...runtime.run import GuidancePatch, Run, difference_step, is_ancestral
from ..sockets import CATEGORY, MethodSocket

Guided = Callable[..., tuple[Tensor, StepRecord]]


@dataclass
class Setting:
    """What a method finds when a run begins, everything loaded.

    Attributes:
        patch: the guidance in whose place the method stands.
        guider: ComfyUI's.
        sigmas: of the run.
        extra_args: what the sampler hands to each evaluation.
        noise: of the run.
        kept: the picture that comes in, or zeros; model space.
        mask: 1 where may be painted; None for everywhere.
    """

    patch: MethodPatch
    guider: Any
    sigmas: Tensor
    extra_args: dict[str, Any]
    noise: Tensor
    kept: Tensor
    mask: Tensor | None

    @property
    def continues(self) -> bool:
        """Whether this goes on with another sampler's run, and adds no noise of its own."""
        return not bool(self.noise.any())

    @property
    def begins_alike(self) -> bool:
        """Whether every picture of the batch begins from the same one, under the same mask."""
        given = [self.kept] if self.mask is None else [self.kept, self.mask]
        return self.continues or not any(bool((rows != rows[:1]).any()) for rows in given)


class Choice(Protocol):
    """What comes through the method socket.

    Attributes:
        name: for labels and errors.
        needs_gradient: whether it asks for the gradient of the weight.
        through_model: whether it goes backward through the model.
        compares: whether it compares evaluations of the model, which no cache may answer then.
        own_sampler: whether it samples by itself.
    """

    name: str
    needs_gradient: bool
    through_model: bool
    compares: bool
    own_sampler: bool

    def begun(self, setting: Setting) -> Guided:
        """The method for one run."""
        ...


@dataclass(frozen=True)
class DPSChoice:
    """DPS, with its numbers."""

    rho: float
    normalised: bool
    name = "DPS"
    needs_gradient = through_model = compares = True
    own_sampler = False

    def begun(self, setting: Setting) -> Guided:
        """As a choice."""
        return DPS(self.rho, self.normalised, vjp=_vjp_of)


@dataclass(frozen=True)
class FreeDoMChoice:
    """FreeDoM, with its numbers."""

    step: float
    plain_step: float
    window: Window
    name = "FreeDoM"
    needs_gradient = through_model = compares = own_sampler = True

    def begun(self, setting: Setting) -> Guided:
        """As a choice."""
        return FreeDoM(setting.sigmas.cpu(), self.step, self.plain_step, self.window, vjp=_vjp_of)


@dataclass
class LiDARChoice:
    """LiDAR, with its numbers, and the last prompt's pictures.

    They begin as the run does: from its input picture at its first noise level, under its mask. A
    run that goes on with another sampler's gets whole pictures from pure noise.
    """

    count: int
    steps: int
    scale: float
    sigma_end: float
    seed: int
    kept: dict[str, Tensor] = field(default_factory=dict, repr=False)
    name = "LiDAR"
    needs_gradient = through_model = compares = own_sampler = False

    def begun(self, setting: Setting) -> Guided:
        """As a choice; makes the lookahead pictures where the prompt is a new one.

        Raises:
            ValueError: the pictures of the batch have a prompt each.
        """
        _check_one_prompt(setting.guider)
        key = _fingerprint(self, setting)
        began, model_calls = time.perf_counter(), 0
        pictures = None if key is None else self.kept.get(key)
        if pictures is None:
            pictures = self._made(setting)
            model_calls = self._rounds(setting) * self.steps
            self.kept.clear()
            if key is not None:
                self.kept[key] = pictures
        lookahead, value_calls = self._weighed(pictures, setting)
        view = ve_view(setting.guider.inner_model.model_sampling.noise_scaling, setting.sigmas[:1])
        record = StepRecord.skipped(view.sigma_ve, time.perf_counter() - began)
        setting.patch.trace.add_start(
            replace(record, model_calls=model_calls, value_calls=value_calls)
        )
        return LiDAR(lookahead, self.scale, self.sigma_end)

    def _weighed(self, pictures: Tensor, setting: Setting) -> tuple[Lookahead, int]:
        """The pictures with log w, a batch of the run's size at a time; and how many batches."""
        log_weight = setting.patch._decoded(setting.patch.weight, setting.guider)
        zero, log_w = setting.sigmas.new_zeros(1), []
        shape = pictures.shape[: pictures.ndim - setting.noise.ndim + 1]  # [n] or [B, n]
        for part in pictures.flatten(0, len(shape) - 1).split(setting.noise.shape[0]):
            mm.throw_exception_if_processing_interrupted()
            log_w.append(checked_value(log_weight, part.to(setting.noise), zero).cpu())
        return Lookahead(pictures, torch.cat(log_w).reshape(shape)), len(log_w)

    def _rounds(self, setting: Setting) -> int:
        """How many batches are made: one set serves all pictures that begin alike."""
        batch = setting.noise.shape[0]
        return math.ceil(self.count / batch) if setting.begins_alike else self.count

    def _made(self, setting: Setting) -> Tensor:
        """Plain pictures in few steps, on the CPU, a batch of the run's size at a time.

        [n, ...] where the pictures of the run begin alike, else [B, n, ...].
        """
        sampling = setting.guider.inner_model.model_sampling
        batch, device = setting.noise.shape[0], setting.noise.device
        alike, kept, mask = setting.begins_alike, setting.kept, setting.mask
        highest = float(setting.sigmas[0])
        if setting.continues:
            logging.info(
                "LAGS: this run goes on with another sampler's, so LiDAR's quick pictures are "
                "whole ones from pure noise, not what that run has begun."
            )
            kept, mask, highest = torch.zeros_like(kept), None, float(sampling.sigma_max)
        lowest = min(float(sampling.sigma_min), highest / 10)
        options = setting.extra_args["model_options"]
        sigmas = k_sampling.get_sigmas_karras(self.steps, lowest, highest, device=device)
        done = []
        for number in range(self._rounds(setting)):
            mm.throw_exception_if_processing_interrupted()
            first, further = (number * batch, 1) if alike else (number, 0)
            noise = torch.stack(
                [self._noise(first + further * i, setting.noise[0]) for i in range(batch)]
            )
            sampler = comfy.samplers.ksampler("dpmpp_2m")
            samples = sampler.sample(
                setting.guider,
                sigmas,
                {**setting.extra_args, "model_options": past_caches(options)},
                None,
                noise.to(device),
                kept,
                mask,
                True,
            )
            done.append(samples.float().cpu())
        with torch.inference_mode(False):
            together = torch.cat(done)[: self.count] if alike else torch.stack(done, dim=1)
            return together.clone()

    def _noise(self, index: int, like: Tensor) -> Tensor:
        """Of one picture: the same in batches of any size."""
        generator = torch.Generator().manual_seed(self.seed + index)
        return torch.randn(like.shape, generator=generator)


def _vjp_of(denoiser: Any) -> Any:
    return denoiser.vjp


@dataclass
class Bound:
    """A method as the guidance takes it, for one run.

    Attributes:
        method: what to do at a noise level; None until the run begins.
        step: how a strength is measured.
        through_model: whether the method goes backward through the model.
        jacobian: whether outputs that a cache remembers would spoil it.
        networks: all that autograd must pass.
        cfg: scale of classifier-free guidance.
    """

    step: DifferenceStep
    through_model: bool
    jacobian: bool
    method: Guided | None = None
    networks: list[Any] = field(default_factory=list)
    cfg: float = 1.0
    tilt_start = False
    reuse = 1

    def is_active(self, sigma_ve: Tensor) -> Tensor:
        """Which noise levels it may guide: [B] booleans."""
        return torch.ones_like(sigma_ve, dtype=torch.bool)

    def __call__(
        self,
        denoiser: Any,
        log_weight: LogWeight,
        x: Tensor,
        sigma_ve: Tensor,
        keep: float = 1.0,
    ) -> tuple[Tensor, StepRecord]:
        """The guided denoised picture."""
        if self.method is None:
            return denoiser(x, sigma_ve), StepRecord.skipped(sigma_ve, 0.0)
        if self.through_model:
            denoiser = DifferentiableModel(denoiser, self.networks, self.cfg)
        return self.method(denoiser, log_weight, x, sigma_ve, keep)


class MethodPatch(GuidancePatch):
    """A rival method on a MODEL, in LAGS's place.

    Args:
        choice: of the method socket.
        step: how a strength is measured.

    The others as for ``GuidancePatch``.
    """

    def __init__(
        self,
        choice: Choice,
        step: DifferenceStep,
        weight: Weight,
        vae: Any,
        trace: Trace,
        decoding: Decoding | None = None,
    ) -> None:
        self.choice, self.bound = choice, Bound(step, choice.through_model, choice.compares)
        super().__init__(self.bound, weight, vae, trace, decoding)  # type: ignore[arg-type]

    def apply(self, model: Any) -> Any:
        """As ``GuidancePatch.apply``.

        Raises:
            ValueError: also where the model is of a kind that the method cannot sample.
        """
        if self.choice.own_sampler and isinstance(model.get_model_object("model_sampling"), CONST):
            raise ValueError(
                f"{self.choice.name} travels back in noise, which its authors define for models "
                "that predict noise; this is a flow model. Take LAGS without a method, DPS or "
                "LiDAR."
            )
        if not self.weight.is_measured and not self.choice.needs_gradient:
            raise ValueError(
                f"{self.choice.name} asks for no gradient, by which an automatic strength is "
                "measured: set the weight's strength by hand."
            )
        patched = super().apply(model)
        if self.choice.own_sampler:
            patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, self.key, self.outer_sample)
        return patched

    def outer_sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        *others: Any,
        **named: Any,
    ) -> Any:
        """Around a whole run: the method's own sampler in the place of the user's.

        Raises:
            ValueError: the user's is of another kind.
        """
        if not is_ancestral(sampler):
            name = getattr(getattr(sampler, "sampler_function", None), "__name__", "another")
            raise ValueError(
                f"{self.choice.name} is an ancestral sampler of its own, and the sampler is "
                f"{name.removeprefix('sample_')!r}: set sampler_name to euler_ancestral, with eta "
                "and s_noise at 1."
            )
        own = comfy.samplers.KSAMPLER(self.time_travel)
        return executor(noise, latent_image, own, *others, **named)

    def time_travel(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any = None,
        disable: Any = None,
    ) -> Tensor:
        """A sampler of ComfyUI."""
        draw = k_sampling.default_noise_sampler(x, seed=extra_args.get("seed"))
        method = self.bound.method
        rounds = method.rounds if isinstance(method, FreeDoM) else [1] * (len(sigmas) - 1)

        def look(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                sigmas_here = {"sigma": sigma, "sigma_hat": sigma}
                callback({"x": x, "i": step, "denoised": denoised, **sigmas_here})

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            denoised: Tensor = model(x, sigma, **extra_args)
            return denoised

        return travel(denoiser, x, sigmas, rounds, lambda like: draw(None, None), look)

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
        """Around a run, as ``GuidancePatch``; the method begins when everything is loaded."""
        if self.choice.through_model:
            logging.info(
                "LAGS: %s goes backward through the diffusion model, with its blocks computed "
                "again: about %.2f GB for this batch, beside the models and the weight's gradient.",
                self.choice.name,
                gradient_bytes(guider, noise.shape) / GIGABYTE,
            )

        def begin(*args: Any) -> Tensor:
            kept = torch.zeros_like(noise) if latent_image is None else latent_image
            setting = Setting(self, guider, sigmas, extra_args, noise, kept, denoise_mask)
            if self.choice.through_model:
                self._make_room(guider, noise.shape)
            self.bound.networks, self.bound.cfg = networks_of(guider), getattr(guider, "cfg", 1.0)
            self.bound.method = self.choice.begun(setting)
            result: Tensor = executor(*args)
            return result

        begin.class_obj = executor.class_obj  # type: ignore[attr-defined]
        try:
            return super().sampler_sample(
                begin,
                guider,
                sigmas,
                extra_args,
                callback,
                noise,
                latent_image,
                denoise_mask,
                disable_pbar,
            )
        finally:
            self.bound.method, self.bound.networks = None, []

    def _make_room(self, guider: Any, shape: torch.Size) -> None:
        """Free what the gradient takes: its graph is there while the weight's is made too."""
        log_weight = self._decoded(self.weight, guider)
        decoder, model = log_weight.decoder, guider.model_patcher
        memory = gradient_bytes(guider, shape)
        beside = patchers_of_a_run(guider)
        if decoder.device == model.load_device:
            memory += log_weight.bytes_per_picture(shape)
            beside += decoder.patchers
        mm.load_models_gpu(beside, memory_required=memory)

    def predict_noise(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Around one evaluation, as ``GuidancePatch``; FreeDoM's own steps are ancestral ones."""
        run: Run | None = (model_options or {}).get(self.key)
        if run is not None and self.choice.own_sampler:
            run.ancestral = True
        return super().predict_noise(executor, x, timestep, model_options, seed)


def _check_one_prompt(guider: Any) -> None:
    """Refuse prompts that differ within a batch: one set of pictures serves all of it."""
    for conds in guider.original_conds.values():
        for cond in conds or ():
            text = cond.get("cross_attn")
            if text is not None and text.shape[0] > 1:
                raise ValueError(
                    f"LiDAR makes its quick pictures for one prompt, and this batch has "
                    f"{text.shape[0]}: run them one by one, or take LAGS without a method or DPS."
                )


def _fingerprint(choice: LiDARChoice, setting: Setting) -> str | None:
    """What the lookahead pictures depend on; None where that cannot be told."""
    guider = setting.guider
    digest = hashlib.sha256()
    begin = (tuple(setting.noise.shape[1:]), float(setting.sigmas[0]), setting.continues)
    settings = (choice.count, choice.steps, choice.seed, begin, getattr(guider, "cfg", None))
    digest.update(repr((settings, str(guider.model_patcher.patches_uuid))).encode())
    digest.update(str(id(guider.model_patcher.model)).encode())
    try:
        _add(digest, guider.original_conds)
        if not setting.continues:
            rows = slice(1 if setting.begins_alike else None)
            _add(digest, [setting.kept[rows], None if setting.mask is None else setting.mask[rows]])
    except TypeError:
        return None
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add tensors, numbers and words to a digest.

    Raises:
        TypeError: anything else, whose state is not known.
    """
    if isinstance(value, Tensor):
        digest.update(repr((value.shape, value.dtype)).encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(key for key in value if key != "uuid"):
            digest.update(str(key).encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        for item in value:
            _add(digest, item)
    elif value is None or isinstance(value, (str, int, float, bool)):
        digest.update(repr(value).encode())
    else:
        raise TypeError(type(value).__name__)


def _share(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _output() -> Any:
    return MethodSocket.Output(display_name="method", tooltip="For a LAGS sampler.")


class LAGSMethodDPS(io.ComfyNode):
    """DPS for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodDPS",
            display_name="Method: DPS",
            category=CATEGORY,
            description="Full gradient of the weight through the model, in every step, in the "
            "place of LAGS. Needs memory for a backward pass through the model. A sampler's mode "
            "and confidence have no effect with it.",
            inputs=[
                io.Float.Input(
                    "rho",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Size of the gradient's step: 1 as derived, 0 off. Working range 0.1 "
                    "to 2; too much burns the picture.",
                ),
                io.Boolean.Input(
                    "normalised",
                    default=False,
                    tooltip="Divides each picture's gradient by the size of log w, in the manner "
                    "of the paper: the weight's strength then has no effect. Sensitive to rho.",
                ),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(cls, rho: float, normalised: bool) -> io.NodeOutput:
        DPS(rho)  # refuses what is out of range
        return io.NodeOutput(DPSChoice(rho, normalised))


class LAGSMethodFreeDoM(io.ComfyNode):
    """FreeDoM for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodFreeDoM",
            display_name="Method: FreeDoM",
            category=CATEGORY,
            description="Gradient steps through the model with time travel, in the place of LAGS: "
            "an ancestral sampler of its own (choose euler_ancestral). The weight's strength has "
            "no effect but for its sign. Needs memory for a backward pass through the model.",
            inputs=[
                io.Float.Input(
                    "step",
                    default=STEP,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Length of a step relative to what cfg adds. The paper: 0.2 for style.",
                ),
                io.Float.Input(
                    "plain_step",
                    default=PLAIN_STEP,
                    min=0.0,
                    max=100.0,
                    step=0.005,
                    tooltip="The same at cfg 1, relative to the noise. The paper: 0.02.",
                ),
                _share("first", FIRST, "Share of the steps left where guidance begins; 1 at once."),
                _share("last", LAST, "Share of the steps left where guidance ends; 0 at the end."),
                _share("travel_until", TRAVEL_UNTIL, "Share of the steps left where repeats end."),
                io.Int.Input(
                    "repeats",
                    default=REPEATS,
                    min=1,
                    max=100,
                    tooltip="How often a guided step before that is done; 1 is no time travel.",
                ),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls,
        step: float,
        plain_step: float,
        first: float,
        last: float,
        travel_until: float,
        repeats: int,
    ) -> io.NodeOutput:
        choice = FreeDoMChoice(step, plain_step, Window(first, last, travel_until, repeats))
        return io.NodeOutput(choice)


class LAGSMethodLiDAR(io.ComfyNode):
    """LiDAR for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodLiDAR",
            display_name="Method: LiDAR",
            category=CATEGORY,
            description="Makes a few quick pictures of the prompt first, weighs them, and steers "
            "towards the better ones, in the place of LAGS. Works with weights that have no "
            "gradient. With denoise below 1 or a mask they begin from the input picture, as the "
            "run does. They are kept for the next run of the same prompt and input.",
            inputs=[
                io.Int.Input(
                    "count",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Quick pictures. The paper takes 50 to 100.",
                ),
                io.Int.Input(
                    "lookahead_steps",
                    default=STEPS,
                    min=1,
                    max=1000,
                    tooltip="Steps for each of them. The paper takes 3 to 8.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Size of the shift: 1 as derived; the paper takes 12.5 on SD1.5.",
                ),
                io.Float.Input(
                    "sigma_end",
                    default=SIGMA_END,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Noise level below which steps stay plain. 0.57 is the paper's.",
                ),
                io.Int.Input(
                    "lookahead_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Of the quick pictures; leave it, and the prompt's are made once.",
                ),
            ],
            outputs=[_output()],
        )

    @classmethod
    def execute(
        cls, count: int, lookahead_steps: int, scale: float, sigma_end: float, lookahead_seed: int
    ) -> io.NodeOutput:
        choice = LiDARChoice(count, lookahead_steps, scale, sigma_end, lookahead_seed)
        return io.NodeOutput(choice)


def with_method(
    choice: Choice, model: Any, vae: Any, weight: Weight, trace: Trace, decoding: Decoding
) -> Any:
    """The MODEL with a rival method."""
    trace.label = f"{choice.name}, {weight.name}"
    patch = MethodPatch(choice, difference_step(model), weight, vae, trace, decoding)
    return patch.apply(model)
