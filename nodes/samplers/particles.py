"""Particle KSampler: KSampler with several weighted particles for each image."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ...guidance.particles import PRESETS, RESAMPLING, TEMPERING
from ...runtime.page import summary
from ...runtime.particle_model import SAMPLERS
from ...runtime.particle_run import FROM_METHOD, OUTPUTS, Choices
from ...runtime.particles import sample_particles
from ...runtime.sampling import SamplerInputs
from ..inputs import dial, ksampler_inputs, options_input, power_input, vae_input
from ..sockets import CATEGORY, TraceSocket, WeightSocket, found_by

METHODS = list(PRESETS)


class LAGSParticleSampler(io.ComfyNode):
    """Sequential Monte Carlo with KSampler's inputs."""

    # Newer ComfyUI sends the page a cached run's curves again. 0.8's schema can't say so.
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        sampler = io.Combo.Input(
            "sampler_name",
            options=list(SAMPLERS),
            tooltip="Choose a sampler: the steps of all are Gaussian, so that particles can be "
            "weighted. lcm is for LCM models.",
        )
        return io.Schema(
            node_id="LAGSParticleSampler",
            display_name="Particle KSampler",
            category=CATEGORY,
            description="KSampler that runs several particles for each image, weighs them by w "
            "during the run and copies the good ones (sequential Monte Carlo). As their number "
            "grows, the results become exact samples of w(x) p(x). Time grows with the number of "
            "particles; memory hardly grows.",
            **found_by(
                "particle filter, sequential monte carlo, smc, fk steering, das, resampling, "
                "best of n, reward, 粒子滤波, 粒子采样, 重采样"
            ),
            inputs=[
                *ksampler_inputs(sampler=sampler),
                vae_input(),
                WeightSocket.Input(
                    "weight",
                    tooltip="Connect what you want more of: any Weight node; methods smc and fk "
                    "also take one without a gradient.",
                ),
                power_input(
                    "Raise it for a stronger effect. It is the power of the weight: 1 as its "
                    "node sets it, 0 off (plain sampling), negative the opposite. Few particles "
                    "can only follow a moderate weight: see the ESS."
                ),
                *method_inputs(),
                options_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT", tooltip="The chosen particles, image by image."
                ),
                io.Float.Output(
                    display_name="log_weights",
                    is_output_list=True,
                    tooltip="Natural logarithm of the weight of each image among the particles of "
                    "its group; without the logarithm, the weights of a group sum to 1.",
                ),
                TraceSocket.Output(
                    display_name="trace",
                    tooltip="A record of every step: log w, and the tempering as alpha.",
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="ESS, resampling and log w of each image's particles.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        choices = Choices(**{field.name: inputs.pop(field.name) for field in fields(Choices)})
        outputs = sample_particles(SamplerInputs(**inputs), choices, cls.hidden.unique_id)
        return io.NodeOutput(*outputs, ui={"lags_trace": [summary(outputs[2])]})


def method_inputs() -> list[Any]:
    """The method, its numbers, and what comes out."""
    return [
        io.Combo.Input(
            "method",
            options=METHODS,
            default=METHODS[0],
            tooltip="Choose what moves the particles; start with lags. lags: drift by LAGS, made "
            "exact by path weights (recommended). smc: weights only, no drift. fk: "
            "FK-steering. das, das_1p, tds, urge, urge_ess: as published, with a "
            "gradient through the model, which takes several times the memory and time.",
        ),
        io.Int.Input(
            "particles",
            **dial(4, 1, 1024),
            tooltip="Set the particles for each image; time grows with it. 4 as published, more "
            "for strong weights.",
        ),
        io.Combo.Input(
            "resampling",
            options=[FROM_METHOD, *RESAMPLING],
            tooltip="Choose how the particles to be copied are drawn. All are unbiased; "
            "systematic and ssp are the least noisy.",
        ),
        io.Float.Input(
            "ess_threshold",
            **dial(-1.0, -1.0, 1.0, 0.05),
            tooltip="Set when to resample: where the ESS (effective sample size) is below this "
            "share of the particles. -1 as the method sets it (mostly 0.5), 0 never. smc "
            "with 0 and output best is best of N.",
        ),
        io.Combo.Input(
            "tempering",
            options=[FROM_METHOD, *TEMPERING],
            tooltip="Choose how the weight is switched on during the run. The result always has "
            "the full weight.",
        ),
        io.Int.Input(
            "evaluate_every",
            **dial(0, 0, 10000),
            tooltip="Set the steps between two updates of the particle weights; 0 as the method "
            "sets it (fk: five in all, others every step). Fewer updates are cheaper, "
            "and the result is as exact.",
        ),
        io.Int.Input(
            "particles_at_once",
            **dial(0, 0, 1024),
            tooltip="Raise it to show the model more particles of each image together: more is "
            "faster on large GPUs and takes more memory. 0 as many as fit.",
        ),
        io.Combo.Input(
            "output",
            options=list(OUTPUTS),
            tooltip="Choose which particles to output. best: the one with the greatest w. draw: "
            "drawn by weight, a sample of w p. diverse: good ones that differ. all: "
            "every particle, best first, to be weighted by log_weights.",
        ),
        io.Int.Input(
            "count",
            **dial(1, 1, 1024),
            tooltip="Choose how many images to output from each group, for draw and diverse.",
        ),
    ]
