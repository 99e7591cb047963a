"""LiDAR for the method socket."""

from __future__ import annotations

from comfy_api.latest import io

from ...guidance import LiDAR
from ...guidance.methods.lidar import COUNT, SIGMA_END, STEPS
from ..inputs import dial
from ..sockets import CATEGORY, MethodSocket, found_by


class LAGSMethodLiDAR(io.ComfyNode):
    """LiDAR for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodLiDAR",
            display_name="Method: LiDAR",
            category=CATEGORY,
            description="Makes a few quick images of the prompt first, weighs them, and steers "
            "towards the better ones, instead of LAGS. Works with weights that have no gradient. "
            "With denoise below 1 or a mask they start from the input image, as the run does. They "
            "are kept for the next run with the same prompt and input.",
            **found_by("lidar, lookahead, guidance method, gradient-free guidance, 前瞻, 引导方法"),
            inputs=[
                io.Int.Input(
                    "count",
                    **dial(COUNT, 1, 4096),
                    tooltip="Set how many quick images to make. The paper takes 50 to 100.",
                ),
                io.Int.Input(
                    "lookahead_steps",
                    **dial(STEPS, 1, 1000),
                    tooltip="Set the steps for each of them. The paper takes 3 to 8.",
                ),
                io.Float.Input(
                    "scale",
                    **dial(1.0, 0.0, 1000.0, 0.1),
                    tooltip="Set the size of the shift: 1 as derived; the paper takes 12.5 on "
                    "SD1.5.",
                ),
                io.Float.Input(
                    "sigma_end",
                    **dial(SIGMA_END, 0.0, 1000.0, 0.01),
                    tooltip="Set the noise level below which steps are not guided. 0.57 is from "
                    "the paper.",
                ),
                io.Int.Input(
                    "lookahead_seed",
                    **dial(0, 0, 0xFFFFFFFF),
                    tooltip="Keep the seed of the quick images: while it stays the same, those "
                    "of a prompt are made only once.",
                ),
            ],
            outputs=[MethodSocket.Output(display_name="method", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(
        cls, count: int, lookahead_steps: int, scale: float, sigma_end: float, lookahead_seed: int
    ) -> io.NodeOutput:
        return io.NodeOutput(LiDAR(scale, sigma_end, count, lookahead_steps, lookahead_seed))
