"""Weight: reference image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...rewards import PerceptualReward, ReferenceReward, Reward, StyleReward, Weight
from ...runtime.checks import check_chosen, check_connected
from ...runtime.images import channels_first
from ...runtime.model_rewards import FILES, LIKE, UNIT, signatures
from ..inputs import file_input, precision_input, reward_option, weight_output
from ..sockets import CATEGORY, found_by


def _like(name: str, kind: type[Reward], tooltip: str, *more: Any) -> Any:
    file = file_input("file", name, tooltip)
    return reward_option(kind, file, *more, precision_input(), name=name)


def _heads() -> Any:
    auto, *files = FILES["LPIPS heads"].choices()
    return io.Combo.Input(
        "heads",
        options=[auto, UNIT, *files],
        tooltip="Choose how much each channel of the network counts: LPIPS's own file for this "
        "network (vgg.pth, alex.pth). auto finds it, and says so where it has to take "
        "unit weights.",
    )


class LAGSWeightReference(io.ComfyNode):
    """More like a given image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSWeightReference",
            display_name="Weight: reference image",
            category=CATEGORY,
            description="Favours images like a given one, in content (what it shows), in style "
            "(its colours and textures), or place by place (perceptual: LPIPS). A batch of "
            "references counts as their mean.",
            **found_by(
                "style, similar image, image prompt, lpips, dino, perceptual, "
                "reward reference, 风格, 相似, 参考图"
            ),
            inputs=[
                io.Image.Input("image", tooltip="Connect the reference image, or several."),
                io.DynamicCombo.Input(
                    "like",
                    options=[
                        _like(
                            "content",
                            ReferenceReward,
                            "Choose a CLIP, SigLIP or DINOv2; also in clip_vision.",
                        ),
                        _like("style", StyleReward, "Choose a CLIP; also in clip_vision."),
                        _like(
                            "perceptual",
                            PerceptualReward,
                            "Choose torchvision's VGG16 or AlexNet.",
                            _heads(),
                        ),
                    ],
                    tooltip="Choose in what the result should be like the reference image. For "
                    "style use an automatic strength: its scale depends on the CLIP.",
                ),
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, like: Any = None, **_: Any) -> Any:
        """Another value when a file has changed on disk."""
        own = like.get("like", "") if isinstance(like, dict) else ""
        return signatures(like, (own, "file"), ("LPIPS heads", "heads"))

    @classmethod
    def execute(cls, image: Tensor, like: dict[str, Any]) -> io.NodeOutput:
        check_connected(image=image)
        check_chosen("like", like)
        reward = LIKE[like["like"]](like, channels_first(image))
        return io.NodeOutput(Weight.of(reward, like["strength"], like["auto_nats"]))
