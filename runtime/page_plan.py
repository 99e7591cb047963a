"""What the page may ask: the schedule of a node's widgets, before anything is queued."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..guidance import LAGS, MPGD, Message, Method, plan, preset
from ..guidance.particles import particle_plan
from .last_model import Sampling, sampling_of
from .lookahead import PlannedRun
from .options import Options, decoding_of
from .page import finite, page_server
from .particle_model import Levels, chain_of
from .particle_run import Choices
from .plans import curve
from .sampling import ksampler_levels

PATH = "/lags/schedule"
# The nodes that give a method, by id; nodes/ hands them in.
_method_nodes: dict[str, Any] = {}


def schedule(asked: dict[str, Any]) -> dict[str, Any]:
    """The plan of a node's widgets.

    Args:
        asked: node, and the values of all its widgets by name; sigmas where SIGMAS are connected
            that take the place of scheduler and steps; options, the widgets of LAGS Options where
            that is connected; method, the type and the widgets of the node that gives another
            method. Only what a plan hangs on is read.

    A node with particles has another plan. A method of another pack has none: {"other": its type}.

    Raises:
        ValueError, KeyError, TypeError, OverflowError: a value is missing or out of range.
    """
    if not isinstance(asked, dict):
        raise ValueError(f"The request is a {type(asked).__name__}; expected a JSON object.")
    sampling = sampling_of(str(asked["node"]))
    if "particles" in asked:
        return particles(sampling, asked)
    options, other = asked.get("options"), asked.get("method")
    for name, widgets in (("options", options), ("method", other)):
        if widgets and not isinstance(widgets, dict):
            raise ValueError(f"{name} is {widgets!r:.80}; expected the widgets of a node by name.")
    if other and str(other["type"]) not in _method_nodes:
        return {"other": str(other["type"])}
    sigmas = noise_levels(sampling, asked)
    c = float(asked["c"])
    chosen = Options.of(options) if options else Options()
    method: Method = chosen.applied_to(preset(asked["mode"], c, sampling.step), c)
    if is_off(asked):
        method = MPGD(0.0)  # as KSampler: a factor of 0 in every step
    elif other:
        method = connected(other).bind(PlannedRun(torch.cat([sigmas[sigmas > 0], torch.zeros(1)])))
    scaling = sampling.model_sampling.noise_scaling
    branches = 1 if float(asked.get("cfg", 2.0)) == 1 else 2
    method = method.in_steps(int((sigmas > 0).sum()), branches)
    adds_noise = asked.get("add_noise") != "disable"
    score_std = float(asked.get("nats", 3.0))
    made = plan(method, sigmas, scaling, score_std, branches, adds_noise)
    price = sampling.prices.get(decoding_of(chosen, asked["mode"], bool(other)))
    drawn = curve(made if price is None else price.of(made))
    is_idle = isinstance(method, LAGS) and made.is_idle
    return {**drawn, "source": sampling.source.to_json(), "is_idle": is_idle}


def connected(asked: dict[str, Any]) -> Method:
    """The method that a node gives, with these values of its widgets."""
    node = _method_nodes[str(asked["type"])]
    widgets = {spec.id: widget(spec, asked[spec.id]) for spec in node.GET_SCHEMA().inputs}
    method: Method = node.execute(**widgets).result[0]
    return method


def widget(spec: Any, value: Any) -> Any:
    """A widget's value, held to its type and range as ComfyUI does before a run."""
    if spec.io_type not in ("INT", "FLOAT"):
        return value
    number = int(value) if spec.io_type == "INT" else float(value)
    if not spec.min <= number <= spec.max:
        raise ValueError(out_of_range(spec.id, number, spec.min, spec.max))
    return number


def particles(sampling: Sampling, asked: dict[str, Any]) -> dict[str, Any]:
    """The plan of a Particle KSampler's widgets."""
    choices = Choices(
        asked["method"],
        int(asked["particles"]),
        tempering=asked["tempering"],
        evaluate_every=int(asked["evaluate_every"]),
    )
    sigmas = sampled_levels(sampling, asked)
    if not len(sigmas):
        none = "No step is run: denoise is {denoise}."
        raise ValueError(Message("no_step", none, {"denoise": denoise_of(asked)}))
    levels = Levels.of(sampling.model_sampling, sigmas)
    steps = len(levels.sigma) - 1
    engine = choices.engine(steps, sampling.step, is_off(asked))
    chain = chain_of(asked["sampler_name"], sampling.model_sampling)
    made = particle_plan(replace(engine, chain=chain), levels.sigma_ve, choices.particles)
    return {
        "sigma": levels.sigma[:-1].tolist(),
        "alpha": [finite(value) for value in made.temperature.tolist()],
        "active": made.weighs.tolist(),
        "particles": made.particles,
        "model_calls": made.total_calls,
        "model_backwards": made.total_backwards,
        "relative_cost": made.relative_cost,
        "is_priced": False,
        "source": sampling.source.to_json(),
    }


def noise_levels(sampling: Sampling, asked: dict[str, Any]) -> Tensor:
    """The noise levels that a node would go through."""
    if asked.get("sigmas"):
        if sampling.sigmas is None:
            unknown = "SIGMAS are connected: run the node once to see its plan."
            raise ValueError(Message("sigmas_first", unknown))
        return sampling.sigmas[:-1]  # the run ends at the last one
    sigmas = sampled_levels(sampling, asked)
    first, end = int(asked.get("start_at_step", 0)), int(asked.get("end_at_step", len(sigmas)))
    kept = sigmas[:-1][first:end]  # the sampler ends at the last level, and evaluates nothing there
    if len(sigmas) and not len(kept):
        late = "No step is run: start_at_step is {first}, of {steps} steps."
        raise ValueError(Message("starts_late", late, {"first": first, "steps": len(sigmas) - 1}))
    return kept


def sampled_levels(sampling: Sampling, asked: dict[str, Any]) -> Tensor:
    """The noise levels of KSampler's widgets, the last one included."""
    steps = int(asked["steps"])
    if not 1 <= steps <= 10000:
        raise ValueError(out_of_range("steps", steps, 1, 10000))
    return ksampler_levels(
        sampling, steps, asked["sampler_name"], asked["scheduler"], denoise_of(asked)
    )


def out_of_range(name: str, value: float, least: float, most: float) -> Message:
    """What to say of a widget's value that the node does not take."""
    values = {"name": name, "value": value, "least": least, "most": most}
    return Message("out_of_range", "{name} is {value}; expected {least} to {most}.", values)


def is_off(asked: dict[str, Any]) -> bool:
    """Whether the node's strength leaves nothing of its weight."""
    return float(asked.get("strength", 1.0)) == 0


def denoise_of(asked: dict[str, Any]) -> float:
    """The share of the noise levels that are run; all of them where a node has no such widget."""
    return float(asked.get("denoise", 1.0))


def register(method_nodes: Iterable[Any]) -> None:
    """Add the route to ComfyUI's server, where there is one.

    Args:
        method_nodes: the nodes that give a method.
    """
    _method_nodes.update({node.__name__: node for node in method_nodes})
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
        except KeyError as error:
            missing = Message("missing", "Input {name} is missing.", {"name": str(error)})
            return web.json_response({"error": missing.to_json()}, status=400)
        except RecursionError:
            deep = "The request is nested too deeply to be read; expected the widgets of one node."
            return web.json_response({"error": {"text": deep}}, status=400)
        except (ValueError, TypeError, OverflowError) as error:
            said = error.args[0] if error.args else None
            body = said.to_json() if isinstance(said, Message) else {"text": str(error)}
            return web.json_response({"error": body}, status=400)
