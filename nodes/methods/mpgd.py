"""MPGD for the method socket."""

from __future__ import annotations

from comfy_api.latest import io

from ...guidance import MPGD
from ..sockets import CATEGORY, MethodSocket, found_by


class LAGSMethodMPGD(io.ComfyNode):
    """MPGD for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodMPGD",
            display_name="Method: MPGD",
            category=CATEGORY,
            description="The weight's gradient added to the denoised image in every step, instead "
            "of LAGS: no backward pass through the model, no second evaluation, no schedule. The "
            "cheapest of the methods. The sampler's mode and uncertainty coefficient have no "
            "effect with it.",
            **found_by("mpgd, manifold preserving guidance, guidance method, 流形, 引导方法"),
            inputs=[
                io.Float.Input(
                    "rho",
                    default=10.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Set the size of the gradient's step: 1 adds the weight's gradient "
                    "to the model's once, 0 off. Working range 1 to 30; too much burns "
                    "the image.",
                ),
            ],
            outputs=[MethodSocket.Output(display_name="method", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(cls, rho: float) -> io.NodeOutput:
        return io.NodeOutput(MPGD(rho))
