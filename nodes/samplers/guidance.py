"""LAGS Guidance: a weight on a MODEL, for any other sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...guidance import Trace
from ...rewards import Weight
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, filled
from ...runtime.options import Options, guided
from ..inputs import guidance_inputs
from ..sockets import CATEGORY


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
            inputs=[
                io.Model.Input(
                    "model", tooltip="The diffusion model; the output is a guided copy."
                ),
                *guidance_inputs(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with guidance.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        weight: Weight,
        strength: float,
        mode: str,
        c: float,
        options: Options | None = None,
        method: Any = None,
    ) -> io.NodeOutput:
        sockets = filled(options=options, method=method)
        check_connected(model=model, vae=vae, weight=weight, **sockets)
        weight = as_weight(weight)
        trace = Trace(label=f"LAGS {mode}, {weight.name}")
        return io.NodeOutput(guided(model, vae, weight, strength, mode, c, options, trace, method))
