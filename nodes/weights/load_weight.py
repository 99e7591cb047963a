"""Load Weight Function: preference models, and three scores that need no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...rewards import (
    Aesthetic,
    ClipScore,
    HPSv2,
    HPSv21,
    ImageReward,
    JpegSizeReward,
    PickScore,
    Reward,
    SharpnessReward,
    SymmetryReward,
    Weight,
)
from ...rewards.aesthetic import aesthetic_head
from ...rewards.clip import TextEncoder, image_encoder, text_encoder
from ...rewards.hps import hps_encoder
from ...rewards.image_reward import image_reward_model
from ...rewards.symmetry import AXES
from ...runtime import models
from ...runtime.checks import check_chosen
from ...runtime.model_files import tokenizer_folder
from ..sockets import CATEGORY
from .inputs import (
    FILES,
    SAME_FILE,
    file_input,
    precision_input,
    reward_option,
    strength_input,
    weight_output,
)


def prompt_input() -> Any:
    """What the picture should show, for rewards that read a prompt."""
    # One line: the page of ComfyUI 0.8 leaves the box of a longer text standing over the node when
    # another reward is chosen.
    return io.String.Input(
        "prompt",
        default="",
        tooltip="What the picture is judged by; usually the positive prompt. Empty judges the "
        "picture alone. Choosing another reward clears what is typed here, not what is connected.",
    )


def prompt_encoder(path: Path, dtype: torch.dtype) -> TextEncoder:
    """A CLIP's text side, with ComfyUI's tokenizer where the file has none beside it."""
    return text_encoder(path, dtype, tokenizer_folder())


def encode_prompt(path: Path, chosen: dict[str, Any]) -> Tensor:
    """Features of the prompt, by the text side of a CLIP file; once, not in every step."""
    encoder = models.shared(prompt_encoder, path, chosen["precision"])
    models.load([encoder])
    with torch.inference_mode(False), torch.no_grad():
        features: Tensor = encoder(chosen["prompt"])
    return features


def pickscore(chosen: dict[str, Any]) -> Reward:
    """PickScore for a prompt."""
    path = FILES["PickScore"].path(chosen["file"])
    encoder = models.shared(image_encoder, path, chosen["precision"])
    return PickScore(encoder, encode_prompt(path, chosen))


def hps(chosen: dict[str, Any]) -> Reward:
    """HPSv2 or HPSv2.1 for a prompt."""
    path = FILES[chosen["reward"]].path(chosen["file"])
    encoder = models.shared(hps_encoder, path, chosen["precision"])
    kind = HPSv2 if chosen["reward"] == HPSv2.name else HPSv21
    return kind(encoder, encode_prompt(path, chosen))


def image_reward(chosen: dict[str, Any]) -> Reward:
    """ImageReward for a prompt; BERT's vocabulary lies beside its file."""
    path = FILES["ImageReward"].path(chosen["file"])
    model = models.shared(image_reward_model, path, chosen["precision"])
    return ImageReward(model, path.parent / "vocab.txt", chosen["prompt"])


def clip_score(chosen: dict[str, Any]) -> Reward:
    """CLIP score for a prompt, of one file with both sides or one for each."""
    path = FILES["CLIP score"].path(chosen["file"])
    other = chosen["text_file"]
    text = path if other == SAME_FILE else FILES["text side"].path(other)
    encoder = models.shared(image_encoder, path, chosen["precision"])
    features = encode_prompt(text, chosen)
    if features.shape[1] != encoder.width:
        raise ValueError(
            f"The picture side gives {encoder.width} features and the text side "
            f"{features.shape[1]}: they belong to different CLIPs. Choose both of one model."
        )
    return ClipScore(encoder, features)


def aesthetic(chosen: dict[str, Any]) -> Reward:
    """The LAION aesthetic score."""
    head = models.shared(aesthetic_head, FILES["aesthetic"].path(chosen["file"]), "float32")
    path = FILES["aesthetic CLIP"].path(chosen["clip"])
    return Aesthetic(models.shared(image_encoder, path, chosen["precision"]), head)


def _own_file(name: str) -> Any:
    file = FILES[name].published
    return file_input(
        "file",
        name,
        "auto finds the published file in models/weight_functions"
        + (f": {file.file}, {file.gigabytes:g} GB, {file.page}." if file else "."),
    )


def _prompted(kind: type[Reward], *inputs: Any) -> Any:
    return reward_option(kind, _own_file(kind.name), *inputs, prompt_input(), precision_input())


MAKERS: dict[str, Callable[[dict[str, Any]], Reward]] = {
    "PickScore": pickscore,
    "HPSv2.1": hps,
    "HPSv2": hps,
    "ImageReward": image_reward,
    "CLIP score": clip_score,
    "aesthetic": aesthetic,
    "sharpness": lambda chosen: SharpnessReward(),
    "symmetry": lambda chosen: SymmetryReward(chosen["axis"]),
    "JPEG size": lambda chosen: JpegSizeReward(),
}


def reward_options() -> list[Any]:
    """Each reward with the widgets it needs."""
    text_side = io.Combo.Input(
        "text_file",
        options=[SAME_FILE, *FILES["text side"].choices()],
        tooltip="Where the text side is: in the same file, or in one of ComfyUI's text encoders "
        "that has a projection.",
    )
    clip = file_input("clip", "aesthetic CLIP", "OpenAI's CLIP ViT-L/14; also in clip_vision.")
    axis = io.Combo.Input("axis", options=list(AXES), tooltip="Which halves should mirror.")
    return [
        _prompted(PickScore),
        _prompted(HPSv21),
        _prompted(HPSv2),
        _prompted(ImageReward),
        _prompted(ClipScore, text_side),
        reward_option(Aesthetic, _own_file("aesthetic"), clip, precision_input()),
        # No automatic strength: the first denoised pictures are too soft to tell how sharp the last
        # ones will be, and a file size has no gradient to tell anything by.
        io.DynamicCombo.Option(SharpnessReward.name, [strength_input(SharpnessReward)]),
        reward_option(SymmetryReward, axis, name="symmetry"),
        io.DynamicCombo.Option(JpegSizeReward.name, [strength_input(JpegSizeReward)]),
    ]


class LAGSLoadWeight(io.ComfyNode):
    """A preference model, or another score with a model of its own, as a weight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSLoadWeight",
            display_name="Load Weight Function",
            category=CATEGORY,
            description="What you want more of: pictures that people would prefer (PickScore, HPS, "
            "ImageReward), that fit a prompt (CLIP), that are beautiful (aesthetic), sharp or "
            "symmetric. Model files belong into models/weight_functions; nothing is downloaded.",
            inputs=[
                io.DynamicCombo.Input(
                    "reward",
                    options=reward_options(),
                    tooltip="What pictures are judged by.",
                )
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def execute(cls, reward: dict[str, Any]) -> io.NodeOutput:
        check_chosen("reward", reward)
        made = MAKERS[reward["reward"]](reward)
        return io.NodeOutput(Weight.of(made, reward["strength"], reward.get("auto_nats", 0.0)))
