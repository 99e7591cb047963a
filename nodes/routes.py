"""What the page may ask: the schedule of a node's widgets, before anything is queued."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..guidance import plan, preset
from .live import page_server
from .remembered import Sampling, sampling_of
from .sampling import Options
from .visualize import as_sampled, curve

PATH = "/lags/schedule"


def schedule(asked: dict[str, Any]) -> dict[str, Any]:
    """The plan of a node's widgets.

    Args:
        asked: node, and KSampler's and ours: sampler_name, scheduler, steps, denoise, mode, c; cfg,
            options and nats where there are any; add_noise, start_at_step and end_at_step of
            KSampler Advanced; sigmas where SIGMAS take the place of scheduler and steps.

    Raises:
        ValueError, KeyError, TypeError: a value is missing or out of range.
    """
    sampling = sampling_of(str(asked["node"]))
    sigmas = noise_levels(sampling, asked)
    c = float(asked["c"])
    method = preset(asked["mode"], c, sampling.step)
    if asked.get("options"):
        method = Options.of(asked["options"]).applied_to(method, c)
    if asked.get("add_noise") == "disable":
        method = replace(method, tilt_start=False)
    scaling = sampling.model_sampling.noise_scaling
    branches = 1 if float(asked.get("cfg", 2.0)) == 1 else 2
    made = plan(method, sigmas, scaling, float(asked.get("nats", 3.0)), branches)
    return {**curve(made), "source": sampling.source}


def noise_levels(sampling: Sampling, asked: dict[str, Any]) -> Tensor:
    """The noise levels that a node would go through."""
    if asked.get("sigmas"):
        if sampling.sigmas is None:
            raise ValueError("SIGMAS are connected: run the node once, then its dials redraw this.")
        return sampling.sigmas
    steps = int(asked["steps"])
    if not 1 <= steps <= 10000:
        raise ValueError(f"steps is {steps}; expected 1 to 10000.")
    sigmas = as_sampled(
        sampling, steps, asked["sampler_name"], asked["scheduler"], float(asked["denoise"])
    )
    first, end = int(asked.get("start_at_step", 0)), int(asked.get("end_at_step", steps))
    kept = sigmas[:-1][first:end]  # the sampler ends at the last level, and evaluates nothing there
    if len(sigmas) and not len(kept):
        raise ValueError(f"No step is run: start_at_step is {first}, of {len(sigmas) - 1} steps.")
    return kept


def register() -> None:
    """Add the route to ComfyUI's server, where there is one."""
    server = page_server()
    if server is None:
        return
    import asyncio

    from aiohttp import web

    @server.routes.post(PATH)
    async def answer(request: web.Request) -> web.Response:
        try:
            made = await asyncio.to_thread(schedule, await request.json())
            return web.json_response(made)
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
