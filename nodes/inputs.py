"""Widgets and sockets that several nodes share."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io

from ..guidance import MODES
from ..plots.style import AXES, THEMES
from ..rewards import Reward
from ..runtime.model_rewards import FILES
from ..runtime.models import PRECISIONS
from ..runtime.sampling import KSampler
from .sockets import MethodSocket, OptionsSocket, TraceSocket, WeightSocket

AUTOMATIC = 2.0  # nats: what is to be seen at once, and does not burn


def dial(default: float, least: float, most: float, step: float | None = None) -> dict[str, Any]:
    """Default, range and step of a widget for a number."""
    return {"default": default, "min": least, "max": most, "step": step}


def model_input() -> Any:
    """The MODEL of a sampler."""
    return io.Model.Input("model", tooltip="Connect the diffusion model; it is not changed.")


def ksampler_inputs(least_denoise: float = 0.01, sampler: Any = None) -> list[Any]:
    """All inputs of KSampler, in its order, as ``SamplerInputs`` takes them.

    Args:
        least_denoise: end of that widget's range.
        sampler: another widget for sampler_name.
    """
    return [
        model_input(),
        seed_input("seed"),
        *run_inputs(sampler),
        io.Float.Input(
            "denoise",
            **dial(1.0, least_denoise, 1.0, 0.01),
            tooltip="Lower it below 1 to keep the structure of the input image.",
        ),
    ]


def run_inputs(sampler: Any = None) -> list[Any]:
    """What KSampler and KSampler Advanced have in common behind the seed."""
    return [
        io.Int.Input(
            "steps", default=20, min=1, max=10000, tooltip="Set the number of denoising steps."
        ),
        io.Float.Input(
            "cfg",
            **dial(8.0, 0.0, 100.0, 0.1),
            round=0.01,
            tooltip="Raise it to follow the prompt more closely; 1 skips the negative prompt. "
            "The weight acts on the combined prediction, so a high cfg needs less "
            "strength.",
        ),
        *sampler_inputs(sampler),
        io.Conditioning.Input(
            "positive", tooltip="Connect the prompt: what should be in the image."
        ),
        io.Conditioning.Input(
            "negative", tooltip="Connect the negative prompt: what should not be in the image."
        ),
        io.Latent.Input(
            "latent_image", tooltip="Connect the latents to denoise; a noise mask is respected."
        ),
    ]


def sampler_inputs(sampler: Any = None) -> list[Any]:
    """Sampler and scheduler, with ComfyUI's own lists; or another widget for the sampler."""
    return [
        sampler
        or io.Combo.Input(
            "sampler_name",
            options=KSampler.SAMPLERS,
            default="euler_ancestral",
            tooltip="Choose any sampler. Ancestral and SDE samplers follow the weight most "
            "closely.",
        ),
        io.Combo.Input(
            "scheduler",
            options=KSampler.SCHEDULERS,
            tooltip="Choose how the noise falls from step to step.",
        ),
    ]


def seed_input(
    name: str,
    tooltip: str = "Change it for another image: the same seed gives the same image, and the "
    "same start as in KSampler.",
) -> Any:
    """A seed widget like KSampler's."""
    return io.Int.Input(
        name, **dial(0, 0, 0xFFFFFFFFFFFFFFFF), control_after_generate=True, tooltip=tooltip
    )


def batch_input(default: int) -> Any:
    """How many images a demo model is to draw."""
    return io.Int.Input(
        "batch_size", default=default, min=1, max=256, tooltip="Choose how many images to draw."
    )


def vae_input() -> Any:
    """The VAE of a guided sampler."""
    return io.Vae.Input(
        "vae", tooltip="Connect the model's own VAE: it decodes the denoised image for the weight."
    )


def power_input(tooltip: str) -> Any:
    """Strength as a power of the weight."""
    return io.Float.Input("strength", **dial(1.0, -1000.0, 1000.0, 0.05), tooltip=tooltip)


def guidance_inputs() -> list[Any]:
    """What guidance asks for."""
    return [
        vae_input(),
        WeightSocket.Input("weight", tooltip="Connect what you want more of: any Weight node."),
        power_input(
            "Raise it for a stronger effect. It is the power of the weight: 1 as its node sets "
            "it, 2 twice as much, 0 off (exactly KSampler), negative the opposite. Working range "
            "0.3 to 3."
        ),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default=MODES[0],
            tooltip="Choose how guidance is computed; start with balanced. balanced: measures "
            "its own uncertainty and skips steps that change nothing. fast: no second "
            "evaluation of the model, nearly KSampler's speed, acts late (colour, "
            "texture). paper: LAGS as published, two evaluations of the model in every "
            "step.",
        ),
        coefficient_input(),
        options_input(),
        MethodSocket.Input(
            "method",
            optional=True,
            tooltip="Connect a Method node to use another method instead of LAGS.",
        ),
    ]


def coefficient_input() -> Any:
    """The dial of all modes."""
    return io.Float.Input(
        "c",
        display_name="uncertainty coefficient c",
        **dial(10.0, 0.001, 10000.0, 0.1),
        tooltip="Lower it to guide earlier and more strongly, raise it to guide later and more "
        "weakly. This holds in all modes. The paper uses 10 and finds 0.1 to 20 stable. "
        "In balanced mode c sets how much alpha falls where the actual gain in log w is "
        "less than the predicted gain.",
    )


def options_input() -> Any:
    """The optional socket for LAGS Options."""
    return OptionsSocket.Input(
        "options", optional=True, tooltip="Connect LAGS Options to override what the mode chooses."
    )


def guided_outputs() -> list[Any]:
    """What guided samplers give."""
    return [
        io.Latent.Output(display_name="LATENT", tooltip="The denoised latents."),
        TraceSocket.Output(display_name="trace", tooltip="A record of every step."),
    ]


def look_inputs() -> list[Any]:
    """How an image is drawn."""
    return [
        io.Combo.Input(
            "axis", options=list(AXES), tooltip="Choose the horizontal axis: steps, or sigma."
        ),
        io.Combo.Input("theme", options=list(THEMES), tooltip="Choose the colours of the image."),
        io.Float.Input(
            "scale",
            **dial(1.0, 0.25, 4.0, 0.25),
            tooltip="Raise it for a larger image: 1 is 1024 x 768 pixels.",
        ),
    ]


def weight_output() -> Any:
    """The socket all weights share."""
    return WeightSocket.Output(
        display_name="weight", tooltip="For a LAGS sampler or Combine Weights."
    )


def strength_input(reward: type[Reward]) -> Any:
    """Strength by hand, with the reward's own default."""
    default, (low, high) = reward.default_strength, reward.working_range
    step = 10.0 ** math.floor(math.log10(low))
    return io.Float.Input(
        "strength",
        **dial(default, -1e6, 1e6, step),
        round=min(step, 1.0),  # the page shows no more digits than the step has
        tooltip="Raise it for a stronger effect: gain in log w per unit of score "
        f"({reward.scale}). Working range "
        f"{low:g} to {high:g}, 0 off, negative for less. Default {default:g}: "
        f"{reward.strength_source}.",
    )


def strength_inputs(reward: type[Reward], nats: float = AUTOMATIC) -> list[Any]:
    """Strength by hand or automatic; the page shows the one that counts."""
    return [strength_input(reward), auto_input(nats)]


def auto_input(nats: float = AUTOMATIC) -> Any:
    """Automatic strength, of so many nats in a new node; 0 where the strength by hand is exact."""
    return io.Float.Input(
        "auto_nats",
        display_name="automatic strength",
        **dial(nats, -100.0, 100.0, 0.5),
        tooltip="Start with 2: 1 is gentle, 3 clear, 10 strong, negative for less; 0: strength "
        "by hand. The strength is chosen so that log w has this standard deviation over "
        "the model's own samples, by four quick images in a prompt's first run. It is "
        "printed and written to the trace. Of strength then only the sign counts.",
    )


def file_input(name: str, kind: str, tooltip: str) -> Any:
    """A choice of model files."""
    return io.Combo.Input(name, options=FILES[kind].choices(), tooltip=tooltip)


def precision_input() -> Any:
    """The precision of the reward's network."""
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        tooltip="Choose the precision of the reward's network; the score is always computed in "
        "float32. auto chooses what suits the GPU.",
    )


def reward_option(kind: type[Reward], *inputs: Any, name: str | None = None) -> Any:
    """A choice in a list of rewards, with the widgets it needs."""
    return io.DynamicCombo.Option(name or kind.name, [*inputs, *strength_inputs(kind)])
