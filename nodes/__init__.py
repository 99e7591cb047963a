"""The ComfyUI side: thin nodes over guidance and rewards."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .classifier import LAGSWeightClassifier
from .combine import LAGSCombineWeights, LAGSMaskWeight
from .demo import LAGSDemoModel
from .load_weight import LAGSLoadWeight
from .methods import LAGSMethodDPS, LAGSMethodFreeDoM, LAGSMethodLiDAR
from .mmsold import LAGSMMSOLD
from .model_files import register_folder
from .particles import LAGSParticleSampler
from .reference import LAGSWeightReference
from .routes import register as register_routes
from .sampling import LAGSGuidance, LAGSKSampler, LAGSKSamplerAdvanced, LAGSOptions
from .score import LAGSScoreImages
from .search import LAGSSearchSampler
from .visualize import LAGSScheduleVisualizer, LAGSTracePlot
from .weights import LAGSWeightColor, LAGSWeightFrequency

register_folder()
register_routes()

NODES: list[type[io.ComfyNode]] = [
    LAGSKSampler,
    LAGSKSamplerAdvanced,
    LAGSGuidance,
    LAGSOptions,
    LAGSLoadWeight,
    LAGSWeightColor,
    LAGSWeightFrequency,
    LAGSWeightReference,
    LAGSWeightClassifier,
    LAGSCombineWeights,
    LAGSMaskWeight,
    LAGSScoreImages,
    LAGSScheduleVisualizer,
    LAGSTracePlot,
    LAGSParticleSampler,
    LAGSSearchSampler,
    LAGSMMSOLD,
    LAGSMethodDPS,
    LAGSMethodFreeDoM,
    LAGSMethodLiDAR,
    LAGSDemoModel,
]


class LAGSExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
