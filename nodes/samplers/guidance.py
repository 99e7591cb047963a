"""LAGS Guidance: a weight on a MODEL, for any other sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...guidance import Trace
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, filled
from ...runtime.options import GuidanceInputs, guided
from ..inputs import guidance_inputs
from ..sockets import CATEGORY, found_by


class LAGSGuidance(io.ComfyNode):
    """A MODEL that any sampler node samples with guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSGuidance",
            display_name="LAGS Guidance",
            category=CATEGORY,
            description="Puts the weight into the model, for SamplerCustomAdvanced and every other "
            "sampler node. The input model is not changed.",
            **found_by(
                "reward guidance, custom sampler, guider, model patch, weighted sampling, "
                "奖励引导, 模型补丁, 自定义采样"
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="Connect the diffusion model; the output is a guided copy."
                ),
                *guidance_inputs(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with guidance.")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        asked = GuidanceInputs(**inputs)
        sockets = filled(options=asked.options, method=asked.method)
        check_connected(model=asked.model, vae=asked.vae, weight=asked.weight, **sockets)
        weight = as_weight(asked.weight)
        trace = Trace(label=f"LAGS {asked.mode}, {weight.name}")
        return io.NodeOutput(guided(asked, weight, trace))
