"""Load Weight Function: preference models, and three scores that need no file."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

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
from ...rewards.symmetry import AXES
from ...runtime.checks import check_chosen
from ...runtime.model_rewards import FILES, MAKERS, SAME_FILE, signatures
from ..inputs import file_input, precision_input, reward_option, strength_input, weight_output
from ..sockets import CATEGORY, found_by


class LAGSLoadWeight(io.ComfyNode):
    """A preference model, or another score with a model of its own, as a weight."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSLoadWeight",
            display_name="Load Weight Function",
            category=CATEGORY,
            description="What you want more of: images that people would prefer (PickScore, HPS, "
            "ImageReward), that fit a prompt (CLIP), that are beautiful (aesthetic), sharp or "
            "symmetric. Model files belong in models/weight_functions; nothing is downloaded.",
            **found_by(
                "pickscore, hps, hpsv2, imagereward, reward model, preference model, "
                "human preference, aesthetic score, clip score, weight function, sharpness, "
                "symmetry, 奖励模型, 偏好模型, 美学评分, 人类偏好"
            ),
            inputs=[
                io.DynamicCombo.Input(
                    "reward",
                    options=reward_options(),
                    tooltip="Choose the score that images are judged by.",
                )
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, reward: Any = None, **_: Any) -> Any:
        """Another value when a file has changed on disk."""
        own = reward.get("reward", "") if isinstance(reward, dict) else ""
        others = (
            ("aesthetic CLIP", "clip"),
            ("aesthetic SigLIP", "clip"),
            ("text side", "text_file"),
        )
        return signatures(reward, (own, "file"), *others)

    @classmethod
    def execute(cls, reward: dict[str, Any]) -> io.NodeOutput:
        check_chosen("reward", reward)
        made = MAKERS[reward["reward"]](reward)
        return io.NodeOutput(Weight.of(made, reward["strength"], reward.get("auto_nats", 0.0)))


def prompt_input() -> Any:
    """What the image should show, for rewards that read a prompt."""
    # One line: the page of ComfyUI 0.8 leaves the box of a longer text standing over the node when
    # another reward is chosen.
    return io.String.Input(
        "prompt",
        default="",
        tooltip="Write what the image is judged by; usually the positive prompt. Empty: the "
        "image is judged alone. Choosing another reward clears what is typed here, not "
        "what is connected.",
    )


def _own_file(name: str) -> Any:
    file = FILES[name].published
    return file_input(
        "file",
        name,
        "Choose auto to find the published file in models/weight_functions"
        + (f": {file.file}, {file.gigabytes:g} GB, {file.page}." if file else "."),
    )


def _prompted(kind: type[Reward], *inputs: Any) -> Any:
    return reward_option(kind, _own_file(kind.name), *inputs, prompt_input(), precision_input())


def reward_options() -> list[Any]:
    """Each reward with the widgets it needs."""
    text_side = io.Combo.Input(
        "text_file",
        options=[SAME_FILE, *FILES["text side"].choices()],
        tooltip="Choose where the text encoder is: in the same file, or in one of ComfyUI's text "
        "encoders that has a projection.",
    )
    clip = file_input(
        "clip",
        "aesthetic CLIP",
        "Choose OpenAI's CLIP ViT-L/14, or for the head of version 2.5 SigLIP so400m "
        "patch14-384; also in clip_vision.",
    )
    axis = io.Combo.Input(
        "axis", options=list(AXES), tooltip="Choose which halves should mirror each other."
    )
    return [
        _prompted(PickScore),
        _prompted(HPSv21),
        _prompted(HPSv2),
        _prompted(ImageReward),
        _prompted(ClipScore, text_side),
        reward_option(Aesthetic, _own_file("aesthetic"), clip, precision_input()),
        # No automatic strength: the first denoised images are too soft to tell how sharp the last
        # ones will be, and a file size has no gradient to tell anything by.
        io.DynamicCombo.Option(SharpnessReward.name, [strength_input(SharpnessReward)]),
        reward_option(SymmetryReward, axis, name="symmetry"),
        io.DynamicCombo.Option(JpegSizeReward.name, [strength_input(JpegSizeReward)]),
    ]
