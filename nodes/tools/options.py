"""LAGS Options: what a mode chooses by itself, chosen by hand."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...runtime.decoders import AS_NEEDED, DECODERS
from ...runtime.options import FROM_MODE, SCHEDULES, SECOND_FORWARDS, Options
from ..sockets import CATEGORY, OptionsSocket


class LAGSOptions(io.ComfyNode):
    """Choices that the modes make by themselves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSOptions",
            display_name="LAGS Options",
            category=CATEGORY,
            description="Overrides what a mode chooses by itself. Nothing here is needed for good "
            "pictures.",
            inputs=[
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="chord: trusts by how much of the gain in log w that the gradient "
                    "promises comes true. auto: 1/(1 + kappa e), e the measured variance of log w. "
                    "uncertainty: 1/(1 + c sigma^4), the paper's. hard gate: 1 below a noise "
                    "level, else 0. constant: 1.",
                ),
                io.Float.Input(
                    "sigma_gate",
                    default=0.56,
                    min=0.001,
                    max=1000.0,
                    step=0.01,
                    tooltip="Noise level below which the hard gate opens (sigma; for flow models "
                    "sigma / (1 - sigma)). 0.56 is where the paper's schedule crosses one half.",
                ),
                io.Float.Input(
                    "skip_below",
                    default=FROM_MODE,
                    min=-1.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Steps whose influence is under this share of the greatest stay plain. "
                    "0 never skips, -1 as the mode has it (balanced 0.15, fast 0.02, paper 0).",
                ),
                io.Float.Input(
                    "shift_limit",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Greatest shift relative to the denoised picture, per picture. 0.3 "
                    "tames burnt pictures, 0 is no limit.",
                ),
                io.Float.Input(
                    "relative_step",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    tooltip="Finite-difference step relative to the noise level, in paper mode and "
                    "where an automatic strength is measured; balanced goes the whole way instead. "
                    "0 chooses by precision: 0.01 in float32, 0.05 in float16, 0.1 in bfloat16.",
                ),
                io.Float.Input(
                    "epsilon",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.0001,
                    round=False,
                    tooltip="The paper's absolute finite-difference step; overrides the relative "
                    "one, and the whole way of balanced. 0 is off.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=DECODERS[0],
                    tooltip="What shows the weight the picture. vae: exact, up to 15 GB at "
                    "1024x1024. taesd: nearly the same, 2 GB; needs its file in models/vae_approx. "
                    "latent-rgb: colours only, at 1/8 size, nearly free. auto: taesd where its "
                    "file is there, else vae; in paper mode vae.",
                ),
                io.Int.Input(
                    "decode_size",
                    default=AS_NEEDED,
                    min=AS_NEEDED,
                    max=16384,
                    tooltip="Shorter side in pixels of the picture that the weight sees. Smaller "
                    "is faster and takes less memory. -1 what the weight needs (paper mode: full "
                    "size), 0 full size.",
                ),
                io.Combo.Input(
                    "second_forward",
                    options=list(SECOND_FORWARDS),
                    default=SECOND_FORWARDS[0],
                    tooltip="full: the model's whole answer again, both branches of cfg. "
                    "conditional: the branch with the prompt alone, half the cost; the other is "
                    "taken to move as far. From mode: conditional in balanced, full in paper.",
                ),
                io.Int.Input(
                    "reuse_gradient",
                    default=0,
                    min=0,
                    max=10,
                    tooltip="Steps that one gradient of the weight serves: 2 halves what decoder "
                    "and weight take, 1 takes a new one every step. 0 as the mode has it (fast 2, "
                    "others 1).",
                ),
            ],
            outputs=[OptionsSocket.Output(display_name="options", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(cls, **widgets: Any) -> io.NodeOutput:
        return io.NodeOutput(Options.of(widgets))
