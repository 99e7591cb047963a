"""LAGS for ComfyUI: weighted sampling, q(x) proportional to w(x) p(x).

The nodes are registered only where ComfyUI is: without it the pack is plain torch, and its tests,
demo and benchmarks run.
"""

import sys

if __package__ and "comfy.model_management" in sys.modules:
    from .runtime.internals import probe

    probe()  # before the imports that a change would break
    from .nodes import LAGSExtension

    async def comfy_entrypoint() -> "LAGSExtension":
        """ComfyUI's way in."""
        return LAGSExtension()

    WEB_DIRECTORY = "./web"  # ComfyUI's page loads every .js below
