"""Weights out of weights: their product, and a weight for a part of the image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...rewards import Weight, product
from ...rewards.masked import masked
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, filled, numbers
from ...runtime.images import single_mask
from ..inputs import weight_output
from ..sockets import CATEGORY, WeightSocket, found_by

MOST = 16


class LAGSCombineWeights(io.ComfyNode):
    """The product of powers of weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        socket = WeightSocket.Input("weight", tooltip="Connect a weight; the next socket appears.")
        return io.Schema(
            node_id="LAGSCombineWeights",
            display_name="Combine Weights",
            category=CATEGORY,
            description="Favours what all of several weights favour: their product, which adds "
            "their strength x score. Each of them is listed in the trace.",
            **found_by(
                "multiply rewards, several rewards, ensemble, product of weights, 组合奖励, "
                "多个奖励"
            ),
            inputs=[
                io.Autogrow.Input(
                    "weights",
                    template=io.Autogrow.TemplatePrefix(socket, prefix="weight", min=1, max=MOST),
                    tooltip="Connect two or more weights.",
                ),
                io.String.Input(
                    "exponents",
                    default="",
                    tooltip="Write a power for each weight in order, for example '1, 0.5', which "
                    "multiplies its strength. Empty: 1 for each.",
                ),
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def execute(cls, weights: dict[str, Weight], exponents: str) -> io.NodeOutput:
        connected = filled(**weights)
        check_connected(**connected)
        powers = numbers(exponents, "exponents") or [1.0] * len(connected)
        return io.NodeOutput(product([as_weight(w) for w in connected.values()], powers))


class LAGSMaskWeight(io.ComfyNode):
    """A weight for a part of the image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMaskWeight",
            display_name="Mask Weight",
            category=CATEGORY,
            description="Restricts a weight to a mask: the weight judges only what is inside, and "
            "guidance changes only that. When all weights of a sampler are masked, the rest of the "
            "image is left to the model.",
            **found_by(
                "regional reward, masked guidance, inpaint, local guidance, 局部引导, 遮罩引导"
            ),
            inputs=[
                WeightSocket.Input("weight", tooltip="Connect what to favour inside the mask."),
                io.Mask.Input(
                    "mask",
                    tooltip="Connect a mask, white inside; it is stretched to the image's size.",
                ),
            ],
            outputs=[weight_output()],
        )

    @classmethod
    def execute(cls, weight: Weight, mask: Any) -> io.NodeOutput:
        check_connected(weight=weight, mask=mask)
        return io.NodeOutput(masked(as_weight(weight), single_mask(mask)))
