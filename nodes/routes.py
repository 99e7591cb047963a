"""What the page may ask: the schedule of a node's widgets, before anything is queued."""

from __future__ import annotations

from typing import Any

from ..guidance import plan, preset
from .live import page_server
from .remembered import sampling_of
from .sampling import Options
from .visualize import as_sampled, curve

PATH = "/lags/schedule"


def schedule(asked: dict[str, Any]) -> dict[str, Any]:
    """The plan of a node's widgets.

    Args:
        asked: node, and KSampler's and ours: sampler_name, scheduler, steps, denoise, mode, c;
            options and nats where there are any.

    Raises:
        ValueError, KeyError, TypeError: a value is missing or out of range.
    """
    sampling = sampling_of(str(asked["node"]))
    steps = int(asked["steps"])
    if not 1 <= steps <= 10000:
        raise ValueError(f"steps is {steps}; expected 1 to 10000.")
    sigmas = as_sampled(
        sampling, steps, asked["sampler_name"], asked["scheduler"], float(asked["denoise"])
    )
    c = float(asked["c"])
    method = preset(asked["mode"], c, sampling.step)
    if asked.get("options"):
        method = Options.of(asked["options"]).applied_to(method, c)
    scaling = sampling.model_sampling.noise_scaling
    made = plan(method, sigmas, scaling, float(asked.get("nats", 3.0)))
    return {**curve(made), "source": sampling.source}


def register() -> None:
    """Add the route to ComfyUI's server, where there is one."""
    server = page_server()
    if server is None:
        return
    from aiohttp import web

    @server.routes.post(PATH)
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(schedule(await request.json()))
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
