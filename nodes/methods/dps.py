"""DPS for the method socket."""

from __future__ import annotations

from comfy_api.latest import io

from ...guidance import DPS
from ..inputs import dial
from ..sockets import CATEGORY, MethodSocket, found_by


class LAGSMethodDPS(io.ComfyNode):
    """DPS for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodDPS",
            display_name="Method: DPS",
            category=CATEGORY,
            description="Full gradient of the weight through the model, in every step, instead of "
            "LAGS. Needs memory for a backward pass through the model. The sampler's mode and "
            "uncertainty coefficient have no effect with it.",
            **found_by(
                "dps, diffusion posterior sampling, guidance method, reward gradient, "
                "后验采样, 引导方法"
            ),
            inputs=[
                io.Float.Input(
                    "rho",
                    **dial(1.0, 0.0, 1000.0, 0.01),
                    tooltip="Set the size of the gradient's step: 1 as derived, 0 off. Working "
                    "range 0.1 to 2; too much burns the image.",
                ),
                io.Boolean.Input(
                    "normalised",
                    default=False,
                    tooltip="Enable to divide each image's gradient by the size of log w, in the "
                    "manner of the paper: the weight's strength then has no effect. "
                    "Sensitive to rho.",
                ),
            ],
            outputs=[MethodSocket.Output(display_name="method", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(cls, rho: float, normalised: bool) -> io.NodeOutput:
        return io.NodeOutput(DPS(rho, normalised))
