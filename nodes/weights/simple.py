"""Weights that need no model: colour and frequency."""

from __future__ import annotations

from comfy_api.latest import io

from ...rewards import ColourReward, FrequencyReward, Weight
from ...rewards.colour import ATTRIBUTES
from ..inputs import auto_input, dial, weight_output
from ..sockets import CATEGORY, found_by


class LAGSWeightColor(io.ComfyNode):
    """More of a hue, brightness, saturation, or a mean colour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSWeightColor",
            display_name="Weight: colour",
            category=CATEGORY,
            description="Favours images with more of a hue, more brightness or saturation, or a "
            "mean colour close to a given one. Needs no model file.",
            **found_by(
                "reward colour, color, hue, brightness, saturation, colour grade, 颜色, "
                "色调, 亮度, 饱和度"
            ),
            inputs=[
                io.Combo.Input(
                    "attribute",
                    options=list(ATTRIBUTES),
                    default=ATTRIBUTES[0],
                    tooltip="Choose the property of the image that is favoured.",
                ),
                io.Float.Input(
                    "hue",
                    **dial(0.0, 0.0, 360.0, 1.0),
                    tooltip="Set the degrees on the colour wheel: 0 red, 60 yellow, 120 green, "
                    "180 cyan, 240 blue, 300 magenta. Used by 'hue'.",
                ),
                io.String.Input(
                    "colour",
                    default="#2060ff",
                    tooltip="Choose the colour to come close to, as #rrggbb. Used by 'mean "
                    "colour'.",
                ),
                io.Float.Input(
                    "strength",
                    **dial(20.0, -10000.0, 10000.0, 1.0),
                    tooltip="Raise it for a stronger effect: gain in log w per unit of score; "
                    "scores are on the 0..1 scale of "
                    "images. At 20, an image that is 0.1 bluer is e^2 = 7 times as likely. Working "
                    "range 5 to 100, 0 off, negative for less.",
                ),
                auto_input(),
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def execute(
        cls, attribute: str, hue: float, colour: str, strength: float, auto_nats: float = 0.0
    ) -> io.NodeOutput:
        return io.NodeOutput(Weight.of(ColourReward(attribute, hue, colour), strength, auto_nats))


class LAGSWeightFrequency(io.ComfyNode):
    """More or less energy in a band of the spectrum."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSWeightFrequency",
            display_name="Weight: frequency",
            category=CATEGORY,
            description="Favours more fine detail, or less: the energy of the brightness between "
            "two spatial frequencies. Needs no model file.",
            **found_by("detail, blur, smooth, texture, reward frequency, 细节, 模糊, 纹理"),
            inputs=[
                io.Float.Input(
                    "low",
                    **dial(0.15, 0.0, 0.7, 0.01),
                    tooltip="Set the lower edge in cycles per pixel: 0.01 is large shapes, 0.1 "
                    "is texture.",
                ),
                io.Float.Input(
                    "high",
                    **dial(0.5, 0.01, 0.72, 0.01),
                    tooltip="Set the upper edge in cycles per pixel; 0.5 is the finest stripe.",
                ),
                io.Float.Input(
                    "strength",
                    **dial(2.0, -1000.0, 1000.0, 0.1),
                    tooltip="Raise it for a stronger effect: gain in log w per factor e of "
                    "energy. Positive for more, negative for "
                    "less, 0 off. Working range 0.5 to 5.",
                ),
                auto_input(),
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def execute(
        cls, low: float, high: float, strength: float, auto_nats: float = 0.0
    ) -> io.NodeOutput:
        return io.NodeOutput(Weight.of(FrequencyReward(low, high), strength, auto_nats))
