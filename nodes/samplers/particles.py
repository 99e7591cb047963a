"""Particle KSampler: KSampler with several weighted particles for each picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
from comfy_api.latest import io

# ComfyUI's own nodes.py, not this folder.
from nodes import common_ksampler

from ...guidance.particles import PRESETS, RESAMPLING, TEMPERING, Particles
from ...rewards import Weight
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, check_denoise, check_vae, filled
from ...runtime.decoders import choose
from ...runtime.last_model import remember
from ...runtime.page import summary, watcher
from ...runtime.particle_model import SAMPLERS, check_sampler
from ...runtime.particle_run import (
    FROM_METHOD,
    NEED_GRADIENT,
    OUTPUTS,
    Choices,
    ParticleRun,
    ParticleRunTrace,
)
from ...runtime.run import difference_step
from ..sockets import CATEGORY, TraceSocket, WeightSocket
from .ksampler import (
    Options,
    check_input,
    conditioning_inputs,
    denoise_input,
    options_input,
    seed_input,
    steps_and_cfg,
)

METHODS = list(PRESETS)


class LAGSParticleSampler(io.ComfyNode):
    """Sequential Monte Carlo with KSampler's inputs."""

    # Newer ComfyUI sends the page a cached run's curves again. 0.8's schema can't say so.
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSParticleSampler",
            display_name="Particle KSampler",
            category=CATEGORY,
            description="KSampler that runs several particles for each picture, weighs them by w "
            "on the way and copies the good ones: exact samples of w(x) p(x) as their number "
            "grows. Time grows with the particles; memory hardly.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model; it is not changed."),
                seed_input("seed"),
                *steps_and_cfg(),
                io.Combo.Input(
                    "sampler_name",
                    options=list(SAMPLERS),
                    tooltip="Samplers whose every step is one Gaussian, so that it can be weighed. "
                    "lcm is for LCM models.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    tooltip="How the noise falls from step to step.",
                ),
                *conditioning_inputs(),
                denoise_input(),
                *weight_inputs(),
                *method_inputs(),
                options_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT", tooltip="The chosen particles, picture by picture."
                ),
                io.Float.Output(
                    display_name="log_weights",
                    is_output_list=True,
                    tooltip="Natural log of what each picture put out counts among the particles "
                    "of its group; all of a group sum to 1 without the log.",
                ),
                TraceSocket.Output(
                    display_name="trace",
                    tooltip="What every step did: log w, and the tempering as alpha.",
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="Effective size, resampling and log w of each picture's particles.",
                ),
            ],
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
        method: str,
        particles: int,
        resampling: str,
        ess_threshold: float,
        tempering: str,
        evaluate_every: int,
        particles_at_once: int,
        output: str,
        count: int,
        options: Options | None = None,
    ) -> io.NodeOutput:
        check_connected(
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent_image,
            vae=vae,
            weight=weight,
            **filled(options=options),
        )
        check_denoise(denoise, steps)
        check_sampler(sampler_name)
        check_input(latent_image)
        choices = Choices(
            method,
            particles,
            resampling,
            ess_threshold,
            tempering,
            evaluate_every,
            particles_at_once,
            output,
            count,
        )
        remember(cls.hidden.unique_id, model)
        weight = as_weight(weight).power(strength)
        check_gradient(weight, method)
        title = PRESETS[method].title
        trace = ParticleRunTrace(f"{title}, {weight.name}", watcher=watcher(cls.hidden.unique_id))
        run = prepared(
            model, vae, choices, weight, sampler_name, seed, latent_image, options, trace
        )
        (latent,) = common_ksampler(
            run.apply(model),
            seed,
            steps,
            cfg,
            # Prepares the noise levels; the particles walk themselves.
            "euler_ancestral",
            scheduler,
            positive,
            negative,
            latent_image,
            denoise=denoise,
        )
        shares = run.particles.weights.log().gather(1, run.index).flatten().tolist()
        return io.NodeOutput(
            arranged(latent, run.index.shape[1]),
            shares,
            trace,
            told(run.particles, title),
            ui={"lags_trace": [summary(trace)]},
        )


def weight_inputs() -> list[Any]:
    """What is asked for, and how much of it."""
    return [
        io.Vae.Input("vae", tooltip="The model's own VAE: it shows the weight what is being made."),
        WeightSocket.Input(
            "weight",
            tooltip="What you want more of: any Weight node; methods smc and fk also take one "
            "without a gradient.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=-1000.0,
            max=1000.0,
            step=0.05,
            tooltip="Power of the weight: 1 as its node sets it, 0 off (plain sampling), negative "
            "the opposite. What few particles can follow is limited: see the effective size.",
        ),
    ]


def method_inputs() -> list[Any]:
    """The method, its numbers, and what comes out."""
    return [
        io.Combo.Input(
            "method",
            options=METHODS,
            default=METHODS[0],
            tooltip="lags: pushed by LAGS, exact by its path weights (recommended). smc: weighed "
            "only. fk: FK-steering. das, das_1p, tds, urge, urge_ess: as published, pushed by a "
            "gradient through the model, which takes several times the memory and time.",
        ),
        io.Int.Input(
            "particles",
            default=4,
            min=1,
            max=1024,
            tooltip="Particles for each picture; time grows with it. 4 as published, more for "
            "strong weights.",
        ),
        io.Combo.Input(
            "resampling",
            options=[FROM_METHOD, *RESAMPLING],
            tooltip="How the particles to be copied are drawn. All are unbiased; systematic and "
            "ssp are the least noisy.",
        ),
        io.Float.Input(
            "ess_threshold",
            default=-1.0,
            min=-1.0,
            max=1.0,
            step=0.05,
            tooltip="Resample when the effective size is under this share of the particles. -1 as "
            "the method has it (mostly 0.5), 0 never. smc with 0 and output best is best of N.",
        ),
        io.Combo.Input(
            "tempering",
            options=[FROM_METHOD, *TEMPERING],
            tooltip="How the weight is switched on along the run. The result has all of it in any "
            "case.",
        ),
        io.Int.Input(
            "evaluate_every",
            default=0,
            min=0,
            max=10000,
            tooltip="Steps between two weighings; 0 as the method has it (fk: five in all, others "
            "every step). Fewer weighings are cheaper, and as exact.",
        ),
        io.Int.Input(
            "particles_at_once",
            default=0,
            min=0,
            max=1024,
            tooltip="Particles of each picture that the model sees together: more is faster on "
            "large GPUs and takes more memory. 0 as many as fit.",
        ),
        io.Combo.Input(
            "output",
            options=list(OUTPUTS),
            tooltip="best: the greatest w. draw: by weight, a sample of w p. diverse: good ones "
            "that differ. all: every particle, best first, to be weighed by log_weights.",
        ),
        io.Int.Input(
            "count",
            default=1,
            min=1,
            max=1024,
            tooltip="Pictures to put out of each group, for draw and diverse.",
        ),
    ]


def check_gradient(weight: Weight, method: str) -> None:
    """Refuse a weight that cannot push where the method pushes.

    Raises:
        ValueError: a factor has no gradient and the method, or the automatic strength, needs it.
    """
    if weight.differentiable or weight.is_off:
        return
    black = ", ".join(term.reward.name for term in weight.terms if not term.reward.differentiable)
    if method in NEED_GRADIENT:
        raise ValueError(
            f"Weight '{black}' has no gradient, which method '{method}' needs: choose 'smc' or "
            "'fk', which need none."
        )
    if not weight.is_measured:
        raise ValueError(
            f"Weight '{black}' has no gradient, which an automatic strength needs: set the "
            "strengths by hand (automatic 0)."
        )


def prepared(
    model: Any,
    vae: Any,
    choices: Choices,
    weight: Weight,
    sampler_name: str,
    seed: int,
    latent: dict[str, Any],
    options: Options | None,
    trace: ParticleRunTrace,
) -> ParticleRun:
    """A run, ready to be put on its model.

    Raises:
        ValueError: the VAE does not belong to the model, or there is no such decoder.
        ModelFileError: the decoder's file is missing.
    """
    check_vae(vae, model)
    options = options or Options()
    decoder = choose(
        options.decoding.decoder,
        vae,
        model.get_model_object("latent_format"),
        # Asked through the model at each use: what patches it may replace the format for a run.
        lambda denoised: model.model.process_latent_out(denoised),
    )
    step = replace(
        difference_step(model),
        relative=options.relative_step or None,
        absolute=options.absolute_step or None,
    )
    indices = latent.get("batch_index") or range(len(latent["samples"]))
    return ParticleRun(
        choices, weight, decoder, options.decoding, sampler_name, seed, list(indices), step, trace
    )


def arranged(latent: dict[str, Any], copies: int) -> dict[str, Any]:
    """KSampler's LATENT with what belongs to single pictures brought to as many as came out."""
    if copies == 1:
        return latent
    latent = dict(latent)
    latent.pop("batch_index", None)
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) > 1:
        latent["noise_mask"] = mask.repeat_interleave(copies, 0)
    return latent


def told(particles: Particles, title: str) -> str:
    """The run in words, a line for each picture."""
    groups, count = particles.log_w.shape
    trace = particles.trace
    weighings = [record.weighing for record in trace.records if record.weighing is not None]
    lines = [
        f"{title}: {count} particles for each of {groups} pictures, {len(trace.records)} steps; "
        f"each particle: {trace.model_calls} model evaluations, {trace.model_backwards} backward "
        f"passes through the model, {trace.weight_calls} looks at the weight"
    ]
    left = trace.roots(groups, count)
    for group in range(groups):
        sizes = [float(weighing.ess[group]) for weighing in weighings]
        copied = sum(bool(weighing.resampled[group]) for weighing in weighings)
        log_w = particles.log_w[group]
        lines.append(
            f"picture {group}: log w best {float(log_w.max()):.4g}, "
            f"mean {float(log_w.mean()):.4g}; "
            f"effective size at the end {1 / float(particles.weights[group].square().sum()):.2f}, "
            f"least {min(sizes, default=float(count)):.2f}; resampled {copied} times, "
            f"{len(left[group].unique())} of {count} first particles have descendants; "
            f"log of the mean weight {float(particles.log_normaliser[group]):.4g}"
        )
    return "\n".join(lines)
