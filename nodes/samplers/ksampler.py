"""The samplers: KSampler with a weight, its advanced twin, and guidance for any other sampler."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io

# ComfyUI's own nodes.py, not this folder: the drop-in samplers run exactly KSampler's code.
from nodes import common_ksampler

from ...guidance import (
    AUTO_DAMPING_PER_C,
    CHORD_DAMPING_PER_C,
    LAGS,
    MODES,
    AutoSchedule,
    ChordSchedule,
    ConstantSchedule,
    HardGateSchedule,
    Method,
    Paper,
    Schedule,
    Trace,
    UncertaintySchedule,
    preset,
)
from ...rewards import Weight
from ...rewards.base import check_strength
from ...runtime.adapters import as_method, as_weight
from ...runtime.checks import check_connected, check_denoise, check_latent, check_mask, filled
from ...runtime.decoders import AS_NEEDED, DECODERS, Decoding
from ...runtime.last_model import remember
from ...runtime.page import summary, watcher
from ...runtime.run import Guidance, difference_step
from ..sockets import CATEGORY, MethodSocket, OptionsSocket, TraceSocket, WeightSocket

SCHEDULES = ("from mode", "chord", "auto", "uncertainty", "hard gate", "constant")
SECOND_FORWARDS = ("from mode", "full", "conditional")
FROM_MODE = -1.0


@dataclass(frozen=True)
class Options:
    """What LAGS Options overrides; -1 or 'from mode' leaves the mode's own choice."""

    schedule: str = SCHEDULES[0]
    sigma_gate: float = 0.56
    skip_below: float = FROM_MODE
    shift_limit: float = 0.0
    relative_step: float = 0.0
    absolute_step: float = 0.0
    decoding: Decoding = Decoding()
    second_forward: str = SECOND_FORWARDS[0]
    reuse_gradient: int = 0

    @classmethod
    def of(cls, widgets: dict[str, Any]) -> Options:
        """From the widgets of LAGS Options, by their names."""
        numbers = ("sigma_gate", "skip_below", "shift_limit", "relative_step", "epsilon")
        return cls(
            str(widgets["schedule"]),
            *(float(widgets[name]) for name in numbers),
            second_forward=str(widgets.get("second_forward", SECOND_FORWARDS[0])),
            reuse_gradient=int(widgets.get("reuse_gradient", 0)),
        )

    def applied_to(self, method: LAGS, c: float) -> LAGS:
        """The mode's method with these choices made."""
        difference = replace(
            method.difference,
            relative=self.relative_step or None,
            absolute=self.absolute_step or None,
        )
        method = replace(
            method,
            difference=difference,
            shift_limit=self.shift_limit or None,
            reuse=self.reuse_gradient or method.reuse,
        )
        if self.skip_below != FROM_MODE:
            method = replace(method, skip_below=self.skip_below)
        if self.second_forward != SECOND_FORWARDS[0]:
            method = replace(method, conditional=self.second_forward == "conditional")
        if self.schedule == SCHEDULES[0]:
            return method
        schedule = self._schedule(c)
        if schedule.needs_shift and not method.compares:
            # It measures <v, J v>, so it needs the second evaluation that `fast` leaves out.
            method = Paper(**{field.name: getattr(method, field.name) for field in fields(method)})
        return replace(method, schedule=schedule)

    def _schedule(self, c: float) -> Schedule:
        if self.schedule == "chord":
            return ChordSchedule(CHORD_DAMPING_PER_C * c)
        if self.schedule == "auto":
            return AutoSchedule(AUTO_DAMPING_PER_C * c)
        if self.schedule == "uncertainty":
            return UncertaintySchedule(c)
        if self.schedule == "hard gate":
            return HardGateSchedule(self.sigma_gate)
        if self.schedule == "constant":
            return ConstantSchedule()
        raise ValueError(f"schedule is {self.schedule!r}; expected one of {SCHEDULES}.")


def guided(
    model: Any,
    vae: Any,
    weight: Weight,
    strength: float,
    mode: str,
    c: float,
    options: Options | None,
    trace: Trace,
    rival: Any = None,
) -> Any:
    """The MODEL with guidance; the MODEL itself, untouched, where the strength is 0.

    Raises:
        ValueError: a number out of range, or a VAE of another family than the model.
    """
    check_strength(strength, weight.name)
    options = options or Options()
    lags = options.applied_to(preset(mode, c, difference_step(model)), c)
    method = lags if rival is None else as_method(rival)
    if strength == 0 or weight.is_off:
        return model
    if not weight.differentiable and method.needs_gradient:
        black = ", ".join(t.reward.name for t in weight.terms if not t.reward.differentiable)
        raise ValueError(
            f"Weight '{black}' has no gradient, which guidance needs: take it out of the weight. "
            "Score Images can rank finished pictures by it."
        )
    weight, decoding = weight.power(strength), options.decoding
    if rival is not None:
        trace.label = f"{method.name}, {weight.name}"
    elif mode == "paper":
        decoding = decoding.faithful()
    return Guidance(method, weight, vae, trace, decoding).apply(model)


def guidance_inputs() -> list[Any]:
    """The inputs that all guided samplers share."""
    return [
        io.Vae.Input("vae", tooltip="The model's own VAE: it shows the weight what is being made."),
        WeightSocket.Input("weight", tooltip="What you want more of: any Weight node."),
        io.Float.Input(
            "strength",
            default=1.0,
            min=-1000.0,
            max=1000.0,
            step=0.05,
            tooltip="Power of the weight: 1 as its node sets it, 2 twice as much, 0 off (exactly "
            "KSampler), negative the opposite. Working range 0.3 to 3.",
        ),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default=MODES[0],
            tooltip="balanced: measures its own uncertainty and skips steps that change nothing. "
            "fast: no second forward, nearly KSampler's speed, acts late (colour, texture). "
            "paper: LAGS as published, two forwards in every step.",
        ),
        confidence_input(),
    ]


def confidence_input() -> Any:
    """The dial of all modes."""
    return io.Float.Input(
        "c",
        display_name="confidence c",
        default=10.0,
        min=0.001,
        max=10000.0,
        step=0.1,
        tooltip="How much doubt holds the guidance back. The paper uses 10 and finds 0.1 to 20 "
        "stable. Lower acts earlier and stronger. In balanced mode doubt is the part of a promised "
        "gain that does not come true, and this is its price.",
    )


def options_input() -> Any:
    """The optional socket for LAGS Options."""
    return OptionsSocket.Input("options", optional=True, tooltip="LAGS Options, for experts.")


def method_input() -> Any:
    """The optional socket for another method than LAGS."""
    return MethodSocket.Input(
        "method", optional=True, tooltip="Another method in the place of LAGS: a Method node."
    )


def sampler_inputs() -> list[Any]:
    """Sampler and scheduler, with ComfyUI's own lists."""
    return [
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            tooltip="Any sampler works. Ancestral and SDE samplers follow the weight most closely.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            tooltip="How the noise falls from step to step.",
        ),
    ]


def seed_input(name: str) -> Any:
    """A seed widget like KSampler's."""
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=True,
        tooltip="The same seed gives the same picture, and the same start as in KSampler.",
    )


def steps_and_cfg() -> list[Any]:
    """Steps and guidance scale, with KSampler's ranges."""
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of denoising steps."),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How closely the prompt is followed; 1 skips the negative prompt. The weight "
            "acts on the combined prediction, so a high cfg needs less strength.",
        ),
    ]


def conditioning_inputs() -> list[Any]:
    """Prompts and latents."""
    return [
        io.Conditioning.Input("positive", tooltip="What should be in the picture."),
        io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
        io.Latent.Input("latent_image", tooltip="The latents to denoise; a noise mask is obeyed."),
    ]


def denoise_input(least: float = 0.01) -> Any:
    """How much of the input picture is drawn anew."""
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=least,
        max=1.0,
        step=0.01,
        tooltip="Below 1 keeps the structure of the input picture.",
    )


def outputs() -> list[Any]:
    """What both samplers give."""
    return [
        io.Latent.Output(display_name="LATENT", tooltip="The denoised latents."),
        TraceSocket.Output(display_name="trace", tooltip="What every step did."),
    ]


class LAGSKSampler(io.ComfyNode):
    """KSampler, drawing from w(x) p(x)."""

    # Newer ComfyUI sends the page a cached run's curves again. 0.8's schema can't say so.
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSKSampler",
            display_name="KSampler (LAGS)",
            category=CATEGORY,
            description="KSampler that draws more of what a weight asks for: from w(x) p(x) "
            "instead of p(x), without training. At strength 0 it is exactly KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model; it is not changed."),
                seed_input("seed"),
                *steps_and_cfg(),
                *sampler_inputs(),
                *conditioning_inputs(),
                denoise_input(least=0.0),
                *guidance_inputs(),
                options_input(),
                method_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        vae: Any,
        weight: Weight,
        strength: float,
        mode: str,
        c: float,
        options: Options | None = None,
        method: Method | None = None,
    ) -> io.NodeOutput:
        check_connected(
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent_image,
            vae=vae,
            weight=weight,
            **filled(options=options, method=method),
        )
        check_denoise(denoise, steps)
        weight = as_weight(weight)
        trace = Trace(f"LAGS {mode}, {weight.name}", watcher=watcher(cls.hidden.unique_id))
        remember(cls.hidden.unique_id, model)
        if strength != 0:
            check_input(latent_image)
        patched = guided(model, vae, weight, strength, mode, c, options, trace, method)
        (latent,) = common_ksampler(
            patched,
            seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            denoise=denoise,
        )
        return io.NodeOutput(latent, trace, ui={"lags_trace": [summary(trace)]})


class LAGSKSamplerAdvanced(io.ComfyNode):
    """KSampler Advanced, drawing from w(x) p(x)."""

    # Newer ComfyUI sends the page a cached run's curves again. 0.8's schema can't say so.
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSKSamplerAdvanced",
            display_name="KSampler Advanced (LAGS)",
            category=CATEGORY,
            description="KSampler Advanced that draws from w(x) p(x): start and end step, leftover "
            "noise. At strength 0 it is exactly KSampler Advanced.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model; it is not changed."),
                io.Combo.Input(
                    "add_noise",
                    options=["enable", "disable"],
                    tooltip="Disable to go on from latents that still hold noise.",
                ),
                seed_input("noise_seed"),
                *steps_and_cfg(),
                *sampler_inputs(),
                *conditioning_inputs(),
                io.Int.Input(
                    "start_at_step", default=0, min=0, max=10000, tooltip="First step that is run."
                ),
                io.Int.Input(
                    "end_at_step", default=10000, min=0, max=10000, tooltip="Step to stop before."
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=["disable", "enable"],
                    tooltip="Enable to hand latents with their noise to a next sampler.",
                ),
                *guidance_inputs(),
                options_input(),
                method_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        add_noise: str,
        noise_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        vae: Any,
        weight: Weight,
        strength: float,
        mode: str,
        c: float,
        options: Options | None = None,
        method: Method | None = None,
    ) -> io.NodeOutput:
        check_connected(
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent_image,
            vae=vae,
            weight=weight,
            **filled(options=options, method=method),
        )
        weight = as_weight(weight)
        trace = Trace(f"LAGS {mode}, {weight.name}", watcher=watcher(cls.hidden.unique_id))
        remember(cls.hidden.unique_id, model)
        if strength != 0:
            check_input(latent_image)
        patched = guided(model, vae, weight, strength, mode, c, options, trace, method)
        (latent,) = common_ksampler(
            patched,
            noise_seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            disable_noise=add_noise == "disable",
            start_step=start_at_step,
            last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
        )
        return io.NodeOutput(latent, trace, ui={"lags_trace": [summary(trace)]})


class LAGSGuidance(io.ComfyNode):
    """A MODEL that any sampler node samples with guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSGuidance",
            display_name="LAGS Guidance",
            category=CATEGORY,
            description="Puts the weight into the model, for SamplerCustomAdvanced and every other "
            "sampler node. The model that comes in is not changed.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model; a guided copy comes out."),
                *guidance_inputs(),
                options_input(),
                method_input(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with guidance.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        weight: Weight,
        strength: float,
        mode: str,
        c: float,
        options: Options | None = None,
        method: Method | None = None,
    ) -> io.NodeOutput:
        sockets = filled(options=options, method=method)
        check_connected(model=model, vae=vae, weight=weight, **sockets)
        weight = as_weight(weight)
        trace = Trace(label=f"LAGS {mode}, {weight.name}")
        return io.NodeOutput(guided(model, vae, weight, strength, mode, c, options, trace, method))


class LAGSOptions(io.ComfyNode):
    """Choices that the modes make by themselves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSOptions",
            display_name="LAGS Options",
            category=CATEGORY,
            description="Overrides what a mode chooses by itself. Nothing here is needed for good "
            "pictures.",
            inputs=[
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="chord: trusts by how much of the gain in log w that the gradient "
                    "promises comes true. auto: 1/(1 + kappa e), e the measured variance of log w. "
                    "uncertainty: 1/(1 + c sigma^4), the paper's. hard gate: 1 below a noise "
                    "level, else 0. constant: 1.",
                ),
                io.Float.Input(
                    "sigma_gate",
                    default=0.56,
                    min=0.001,
                    max=1000.0,
                    step=0.01,
                    tooltip="Noise level below which the hard gate opens (sigma; for flow models "
                    "sigma / (1 - sigma)). 0.56 is where the paper's schedule crosses one half.",
                ),
                io.Float.Input(
                    "skip_below",
                    default=FROM_MODE,
                    min=-1.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Steps whose influence is under this share of the greatest stay plain. "
                    "0 never skips, -1 as the mode has it (balanced 0.15, fast 0.02, paper 0).",
                ),
                io.Float.Input(
                    "shift_limit",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Greatest shift relative to the denoised picture, per picture. 0.3 "
                    "tames burnt pictures, 0 is no limit.",
                ),
                io.Float.Input(
                    "relative_step",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    tooltip="Finite-difference step relative to the noise level, in paper mode and "
                    "where an automatic strength is measured; balanced goes the whole way instead. "
                    "0 chooses by precision: 0.01 in float32, 0.05 in float16, 0.1 in bfloat16.",
                ),
                io.Float.Input(
                    "epsilon",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.0001,
                    round=False,
                    tooltip="The paper's absolute finite-difference step; overrides the relative "
                    "one, and the whole way of balanced. 0 is off.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=DECODERS[0],
                    tooltip="What shows the weight the picture. vae: exact, up to 15 GB at "
                    "1024x1024. taesd: nearly the same, 2 GB; needs its file in models/vae_approx. "
                    "latent-rgb: colours only, at 1/8 size, nearly free. auto: taesd where its "
                    "file is there, else vae; in paper mode vae.",
                ),
                io.Int.Input(
                    "decode_size",
                    default=AS_NEEDED,
                    min=AS_NEEDED,
                    max=16384,
                    tooltip="Shorter side in pixels of the picture that the weight sees. Smaller "
                    "is faster and takes less memory. -1 what the weight needs (paper mode: full "
                    "size), 0 full size.",
                ),
                io.Combo.Input(
                    "second_forward",
                    options=list(SECOND_FORWARDS),
                    default=SECOND_FORWARDS[0],
                    tooltip="full: the model's whole answer again, both branches of cfg. "
                    "conditional: the branch with the prompt alone, half the cost; the other is "
                    "taken to move as far. From mode: conditional in balanced, full in paper.",
                ),
                io.Int.Input(
                    "reuse_gradient",
                    default=0,
                    min=0,
                    max=10,
                    tooltip="Steps that one gradient of the weight serves: 2 halves what decoder "
                    "and weight take, 1 takes a new one every step. 0 as the mode has it (fast 2, "
                    "others 1).",
                ),
            ],
            outputs=[OptionsSocket.Output(display_name="options", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(
        cls,
        schedule: str,
        sigma_gate: float,
        skip_below: float,
        shift_limit: float,
        relative_step: float,
        epsilon: float,
        decoder: str = DECODERS[0],
        decode_size: int = AS_NEEDED,
        second_forward: str = SECOND_FORWARDS[0],
        reuse_gradient: int = 0,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            Options(
                schedule,
                sigma_gate,
                skip_below,
                shift_limit,
                relative_step,
                epsilon,
                decoding=Decoding(decoder, decode_size),
                second_forward=second_forward,
                reuse_gradient=reuse_gradient,
            )
        )


def check_input(latent: dict[str, Any]) -> None:
    """Refuse latents or masks that guidance cannot serve, before anything is loaded."""
    samples: torch.Tensor = latent["samples"]
    check_latent(samples)
    check_mask(latent)
