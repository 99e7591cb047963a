"""LAGS Options: what a mode chooses by itself, chosen by hand."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...runtime.decoders import AS_NEEDED, DECODERS
from ...runtime.options import FROM_MODE, SCHEDULES, SECOND_FORWARDS, Options
from ..inputs import dial
from ..sockets import CATEGORY, OptionsSocket, found_by


class LAGSOptions(io.ComfyNode):
    """Choices that the modes make by themselves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSOptions",
            display_name="LAGS Options",
            category=CATEGORY,
            description="Overrides what a mode chooses by itself. Nothing here is needed for good "
            "images.",
            **found_by(
                "guidance settings, taesd, finite difference, skip steps, guidance schedule, "
                "引导设置, 专家选项"
            ),
            inputs=[
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="Choose how alpha is found, the share of the full shift that is "
                    "applied. chord: by the actual gain in log w relative to the "
                    "predicted gain. auto: 1/(1 + damping x predicted gain). "
                    "uncertainty: 1/(1 + c sigma^4), the paper's. hard gate: 1 below a "
                    "noise level, else 0. constant: 1.",
                ),
                io.Float.Input(
                    "sigma_gate",
                    **dial(0.56, 0.001, 1000.0, 0.01),
                    tooltip="Set the noise level below which the hard gate is open (sigma; for "
                    "flow models sigma / (1 - sigma)). At 0.56 the paper's schedule is "
                    "one half.",
                ),
                io.Float.Input(
                    "skip_below",
                    **dial(FROM_MODE, -1.0, 0.99, 0.01),
                    tooltip="Raise it to skip more steps: those whose influence is below this "
                    "share of the greatest one are not guided. 0 never skips, -1 as the "
                    "mode sets it (balanced 0.03, fast 0.02, paper 0).",
                ),
                io.Float.Input(
                    "shift_limit",
                    **dial(0.0, 0.0, 10.0, 0.05),
                    tooltip="Set the greatest shift relative to the denoised image, for each "
                    "image. 0.3 tames burnt images, 0 is no limit.",
                ),
                io.Float.Input(
                    "relative_step",
                    **dial(0.0, 0.0, 1.0, 0.005),
                    tooltip="Set the finite-difference step relative to the noise level, in "
                    "paper mode; balanced takes a full step instead. 0 chooses by "
                    "precision: 0.01 in float32, 0.05 in float16, 0.1 in bfloat16.",
                ),
                io.Float.Input(
                    "epsilon",
                    **dial(0.0, 0.0, 1000.0, 0.0001),
                    round=False,
                    tooltip="Set the paper's absolute finite-difference step; it overrides the "
                    "relative one and the full step of balanced. 0 is off.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=DECODERS[0],
                    tooltip="Choose what decodes the denoised image for the weight. vae: exact, "
                    "up to 15 GB at 1024x1024. taesd: nearly the same, 2 GB; needs its "
                    "file in models/vae_approx. latent-rgb: colours only, at 1/8 size, "
                    "nearly free. auto: taesd if its file is there, else vae; in paper "
                    "mode vae.",
                ),
                io.Int.Input(
                    "decode_size",
                    **dial(AS_NEEDED, AS_NEEDED, 16384),
                    tooltip="Set the shorter side, in pixels, of the image that the weight sees. "
                    "Smaller is faster and takes less memory. -1 is the size that the "
                    "weight needs (paper mode: full size), 0 is full size.",
                ),
                io.Combo.Input(
                    "second_forward",
                    options=list(SECOND_FORWARDS),
                    default=SECOND_FORWARDS[0],
                    tooltip="Choose how much is evaluated again. full: a complete second "
                    "evaluation of the model, with both branches of cfg. conditional: "
                    "only the branch with the prompt, at half the cost; the other branch "
                    "is assumed to move by the same amount. From mode: conditional in "
                    "balanced, full in paper.",
                ),
                io.Int.Input(
                    "reuse_gradient",
                    **dial(0, 0, 10),
                    tooltip="Choose how many steps use the same cached gradient of the weight: 2 "
                    "halves the time of the decoder and the weight, 1 computes the "
                    "gradient in every step, and balanced its second evaluation too. 0 "
                    "as the mode sets it: fast 2, paper 1, balanced 1 or 2 by how fast "
                    "the noise falls.",
                ),
            ],
            outputs=[OptionsSocket.Output(display_name="options", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(cls, **widgets: Any) -> io.NodeOutput:
        return io.NodeOutput(Options.of(widgets))
