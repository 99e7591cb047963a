"""What the nodes that need a model file share: the files, and the widgets."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io

from ...rewards import (
    Aesthetic,
    ClipScore,
    HPSv2,
    HPSv21,
    ImageReward,
    PickScore,
    Published,
    Reward,
)
from ...runtime.model_files import BUNDLED, ModelFile
from ...runtime.models import PRECISIONS
from ..sockets import WeightSocket

CLIP_L = ("*clip-vit-large-patch14/model.safetensors", "*clip-vit-large-patch14.safetensors")
CLIP_L += ("*clip_vision_l*.safetensors", "*clip-vit-l-14*.safetensors")
ENCODER = Published(
    "clip-vit-large-patch14/model.safetensors",
    "https://huggingface.co/openai/clip-vit-large-patch14",
    1.7,
    "none found for the weights",
)
FILES = {
    "PickScore": ModelFile("PickScore", PickScore.published, ("*pickscore*.safetensors",)),
    "HPSv2.1": ModelFile("HPSv2.1", HPSv21.published, ("*hps*v2.1*.safetensors", "*hps*v2.1*.pt")),
    "HPSv2": ModelFile("HPSv2", HPSv2.published, ("*hps_v2_*.safetensors", "*hps_v2_*.pt")),
    "ImageReward": ModelFile(
        "ImageReward", ImageReward.published, ("*imagereward*.safetensors", "*imagereward*.pt")
    ),
    "CLIP score": ModelFile(
        "the CLIP score",
        ClipScore.published,
        (*CLIP_L, "*clip*/model.safetensors"),
        ("clip_vision",),
    ),
    "aesthetic": ModelFile(
        "the aesthetic score",
        Aesthetic.published,
        ("*ava1-l14-linearmse*.safetensors", "*ava1-l14-linearmse*.pth"),
    ),
    "aesthetic CLIP": ModelFile("CLIP ViT-L/14", ENCODER, CLIP_L, ("clip_vision",)),
    "text side": ModelFile("CLIP's text side", folders=("text_encoders",)),
    "classifier": ModelFile("an image classifier", folders=(BUNDLED,)),
    "content": ModelFile(
        "a CLIP or DINOv2",
        ENCODER,
        ("*dinov2*/model.safetensors", "*dino*.safetensors", *CLIP_L, "*clip*.safetensors"),
        ("clip_vision",),
    ),
    "style": ModelFile("a CLIP", ENCODER, (*CLIP_L, "*clip*.safetensors"), ("clip_vision",)),
}
SAME_FILE = "same file"


def weight_output() -> Any:
    """The socket all weights share."""
    return WeightSocket.Output(display_name="weight", tooltip="For a LAGS sampler or Combine.")


def strength_input(reward: type[Reward]) -> Any:
    """Strength by hand, with the reward's own default."""
    default, (low, high) = reward.default_strength, reward.working_range
    step = 10.0 ** math.floor(math.log10(low))
    return io.Float.Input(
        "strength",
        default=default,
        min=-1e6,
        max=1e6,
        step=step,
        round=min(step, 1.0),  # the page shows no more digits than the step has
        tooltip=f"Nats per unit of score ({reward.scale}). Working range {low:g} to {high:g}, "
        f"0 off, negative for less. Default {default:g}: {reward.strength_source}.",
    )


def strength_inputs(reward: type[Reward]) -> list[Any]:
    """Strength by hand or automatic."""
    return [strength_input(reward), auto_input()]


def auto_input() -> Any:
    """Automatic strength."""
    return io.Float.Input(
        "auto_nats",
        display_name="automatic strength",
        default=0.0,
        min=0.0,
        max=100.0,
        step=0.5,
        tooltip="0: strength as set. Above 0: each run chooses it, so that log w has this "
        "standard deviation (in nats) over what the model draws; 1 is gentle, 3 clear, 10 "
        "strong. The number is printed and in the trace. Strength then only gives the sign.",
    )


def file_input(name: str, kind: str, tooltip: str) -> Any:
    """A choice of model files."""
    return io.Combo.Input(name, options=FILES[kind].choices(), tooltip=tooltip)


def precision_input() -> Any:
    """The precision of the reward's network."""
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        tooltip="Of the reward's network; its score is always computed in float32. auto takes what "
        "suits the GPU.",
    )


def reward_option(kind: type[Reward], *inputs: Any, name: str | None = None) -> Any:
    """A choice in a list of rewards, with the widgets it needs."""
    return io.DynamicCombo.Option(name or kind.name, [*inputs, *strength_inputs(kind)])


def numbers(text: str, name: str) -> list[float]:
    """'1, 2, 0.5' -> numbers.

    Raises:
        ValueError: something else stands there.
    """
    try:
        return [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"{name} are {text!r}; expected numbers separated by commas.") from error
