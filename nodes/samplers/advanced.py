"""KSampler Advanced (LAGS): KSampler Advanced with a weight."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...runtime.page import summary
from ...runtime.sampling import SamplerInputs, sample_guided
from ..inputs import dial, guidance_inputs, guided_outputs, model_input, run_inputs, seed_input
from ..sockets import CATEGORY, found_by


class LAGSKSamplerAdvanced(io.ComfyNode):
    """KSampler Advanced, drawing from w(x) p(x)."""

    # Newer ComfyUI sends the page a cached run's curves again. 0.8's schema can't say so.
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSKSamplerAdvanced",
            display_name="KSampler Advanced (LAGS)",
            category=CATEGORY,
            description="KSampler Advanced that samples from w(x) p(x): start and end step, "
            "leftover noise. At strength 0 it is exactly KSampler Advanced.",
            **found_by(
                "reward guidance, weighted sampling, guided sampler, start at step, "
                "奖励引导, 加权采样, 高级采样器"
            ),
            inputs=[
                model_input(),
                io.Combo.Input(
                    "add_noise",
                    options=["enable", "disable"],
                    tooltip="Disable to continue from latents that still contain noise.",
                ),
                seed_input("noise_seed"),
                *run_inputs(),
                io.Int.Input(
                    "start_at_step",
                    **dial(0, 0, 10000),
                    tooltip="Choose the first step that is run.",
                ),
                io.Int.Input(
                    "end_at_step",
                    **dial(10000, 0, 10000),
                    tooltip="Choose the step before which the run stops.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=["disable", "enable"],
                    tooltip="Enable to pass latents with their noise on to another sampler.",
                ),
                *guidance_inputs(),
            ],
            outputs=guided_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, noise_seed: int, **inputs: Any) -> io.NodeOutput:
        asked = SamplerInputs(seed=noise_seed, **inputs)
        latent, trace = sample_guided(asked, cls.hidden.unique_id)
        return io.NodeOutput(latent, trace, ui={"lags_trace": [summary(trace)]})
