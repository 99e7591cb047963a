"""The ComfyUI side: thin nodes over guidance and rewards."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..runtime.model_files import register_folder
from ..runtime.page_plan import register as register_routes
from .methods.dps import LAGSMethodDPS
from .methods.freedom import LAGSMethodFreeDoM
from .methods.lidar import LAGSMethodLiDAR
from .methods.mpgd import LAGSMethodMPGD
from .samplers.advanced import LAGSKSamplerAdvanced
from .samplers.guidance import LAGSGuidance
from .samplers.ksampler import LAGSKSampler
from .samplers.mmsold import LAGSMMSOLD
from .samplers.particles import LAGSParticleSampler
from .samplers.search import LAGSSearchSampler
from .tools.demo import LAGSDemoModel
from .tools.demo_text import LAGSDemoTextModel
from .tools.options import LAGSOptions
from .tools.schedule import LAGSScheduleVisualizer
from .tools.score import LAGSScoreImages
from .tools.sweep import LAGSCompare, LAGSSweep
from .tools.trace import LAGSTracePlot
from .weights.classifier import LAGSWeightClassifier
from .weights.combine import LAGSCombineWeights, LAGSMaskWeight
from .weights.load_weight import LAGSLoadWeight
from .weights.reference import LAGSWeightReference
from .weights.simple import LAGSWeightColor, LAGSWeightFrequency

METHODS: list[type[io.ComfyNode]] = [
    LAGSMethodDPS,
    LAGSMethodFreeDoM,
    LAGSMethodLiDAR,
    LAGSMethodMPGD,
]

register_folder()
register_routes(METHODS)

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
    LAGSSweep,
    LAGSCompare,
    LAGSParticleSampler,
    LAGSSearchSampler,
    LAGSMMSOLD,
    *METHODS,
    LAGSDemoModel,
    LAGSDemoTextModel,
]


class LAGSExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
