"""Weight: classifier."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...rewards import ClassReward, Weight
from ...runtime.checks import check_chosen, check_connected, filled
from ...runtime.model_rewards import class_reward, signatures
from ..inputs import file_input, precision_input, strength_inputs, weight_output
from ..sockets import CATEGORY, found_by

CLASSES = (
    "Write names or numbers of classes, separated by commas, as the classifier's config.json has "
    "them."
)


class LAGSWeightClassifier(io.ComfyNode):
    """More or less of a class, or a fair mix of classes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def classes(default: str = "") -> Any:
            return io.String.Input("classes", default=default, tooltip=CLASSES)

        targets = io.String.Input(
            "targets",
            default="",
            tooltip="Write how often each class should come, for example '1, 1, 2'. Empty: "
            "equally.",
        )
        rates = io.String.Input(
            "rates",
            default="",
            tooltip="Write how often each class comes without guidance, for example '0.8, 0.2'. "
            "Empty: measured on plain_images.",
        )
        return io.Schema(
            node_id="LAGSWeightClassifier",
            display_name="Weight: classifier",
            category=CATEGORY,
            description="Favours a class of any image classifier of transformers, avoids it, or "
            "makes a fair mix: each class as often as you say. Put the classifier's folder "
            "(config.json, model.safetensors, preprocessor_config.json) into "
            "models/weight_functions.",
            **found_by(
                "classifier guidance, fairness, nsfw, balance, away from a class, "
                "reward classifier, 分类器引导, 公平, 均衡"
            ),
            inputs=[
                file_input(
                    "file", "classifier", "Choose model.safetensors in the classifier's folder."
                ),
                io.DynamicCombo.Input(
                    "goal",
                    options=[
                        io.DynamicCombo.Option("towards", [classes()]),
                        io.DynamicCombo.Option("away", [classes()]),
                        io.DynamicCombo.Option("balance", [classes(), targets, rates]),
                    ],
                    tooltip="Choose what becomes of the classes. towards: more of the classes. "
                    "away: fewer. balance: each as often as its target.",
                ),
                precision_input(),
                *strength_inputs(ClassReward, nats=0.0),  # by hand it is exact: Bayes' rule
                io.Image.Input(
                    "plain_images",
                    optional=True,
                    tooltip="Connect, for balance, images sampled without guidance, to measure "
                    "the rates.",
                ),
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, **widgets: Any) -> Any:
        """Another value when a file has changed on disk."""
        return signatures(widgets, ("classifier", "file"))

    @classmethod
    def execute(
        cls,
        file: str,
        goal: dict[str, Any],
        precision: str,
        strength: float,
        auto_nats: float,
        plain_images: Tensor | None = None,
    ) -> io.NodeOutput:
        check_connected(**filled(plain_images=plain_images))
        check_chosen("goal", goal)
        reward = class_reward(file, precision, goal, plain_images)
        return io.NodeOutput(Weight.of(reward, strength, auto_nats))
