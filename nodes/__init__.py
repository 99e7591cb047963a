"""The ComfyUI side: thin nodes over guidance and rewards."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .demo import LAGSDemoModel
from .sampling import LAGSGuidance, LAGSKSampler, LAGSKSamplerAdvanced, LAGSOptions
from .weights import LAGSWeightColor, LAGSWeightFrequency

NODES: list[type[io.ComfyNode]] = [
    LAGSKSampler,
    LAGSKSamplerAdvanced,
    LAGSGuidance,
    LAGSOptions,
    LAGSWeightColor,
    LAGSWeightFrequency,
    LAGSDemoModel,
]


class LAGSExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
