"""KSampler (LAGS): KSampler with a weight."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...runtime.page import summary
from ...runtime.sampling import SamplerInputs, sample_guided
from ..inputs import guidance_inputs, guided_outputs, ksampler_inputs
from ..sockets import CATEGORY, found_by


class LAGSKSampler(io.ComfyNode):
    """KSampler, drawing from w(x) p(x)."""

    # Newer ComfyUI sends the page a cached run's curves again. 0.8's schema can't say so.
    HAS_INTERMEDIATE_OUTPUT = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSKSampler",
            display_name="KSampler (LAGS)",
            category=CATEGORY,
            description="KSampler that samples from w(x) p(x) instead of p(x): more of what a "
            "weight favours, without training. At strength 0 it is exactly KSampler.",
            **found_by(
                "reward guidance, weighted sampling, preference, aesthetic guidance, "
                "guided sampler, lags, 奖励引导, 加权采样, 偏好, 采样器"
            ),
            inputs=[*ksampler_inputs(least_denoise=0.0), *guidance_inputs()],
            outputs=guided_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        latent, trace = sample_guided(SamplerInputs(**inputs), cls.hidden.unique_id)
        return io.NodeOutput(latent, trace, ui={"lags_trace": [summary(trace)]})
