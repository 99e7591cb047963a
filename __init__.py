"""LAGS for ComfyUI: weighted sampling, q(x) proportional to w(x) p(x).

The nodes are registered only where ComfyUI is: without it the pack is plain torch, and its tests,
demo and benchmarks run.
"""

import sys

if __package__ and "comfy.model_management" in sys.modules:
    from .runtime.internals import probe

    try:
        from .nodes import LAGSExtension
    finally:
        probe()  # where an import failed, too: it says what ComfyUI has changed

    async def comfy_entrypoint() -> "LAGSExtension":
        """ComfyUI's way in."""
        return LAGSExtension()

    WEB_DIRECTORY = "./web"  # ComfyUI's page loads every .js below
