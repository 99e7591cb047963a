"""KSampler (LAGS): KSampler with a weight."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...rewards import Weight
from ...runtime.options import Options, sample_guided
from ...runtime.page import summary
from ...runtime.sampling import KSamplerInputs
from ..inputs import guidance_inputs, guided_outputs, ksampler_inputs
from ..methods.rivals import Choice
from ..sockets import CATEGORY


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
            description="KSampler that draws more of what a weight asks for: from w(x) p(x) "
            "instead of p(x), without training. At strength 0 it is exactly KSampler.",
            inputs=[*ksampler_inputs(least_denoise=0.0), *guidance_inputs()],
            outputs=guided_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        weight: Weight,
        strength: float,
        mode: str,
        c: float,
        options: Options | None = None,
        method: Choice | None = None,
        **ksampler: Any,
    ) -> io.NodeOutput:
        latent, trace = sample_guided(
            KSamplerInputs(**ksampler),
            cls.hidden.unique_id,
            *(vae, weight, strength, mode, c, options, method),
        )
        return io.NodeOutput(latent, trace, ui={"lags_trace": [summary(trace)]})
