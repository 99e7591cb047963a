"""ComfyUI's KSampler for the pack's samplers: its inputs, the checks before a run, and the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.samplers
from torch import Tensor

# ComfyUI's own nodes.py, not this pack's folder: the drop-in samplers run exactly KSampler's code.
from nodes import common_ksampler

from ..guidance import Trace
from ..rewards import Weight
from .adapters import as_weight
from .checks import check_connected, check_denoise, check_latent, check_mask, filled
from .last_model import remember
from .page import watcher


def samplers() -> list[str]:
    """Names of ComfyUI's samplers, those of other packs among them."""
    names: list[str] = comfy.samplers.KSampler.SAMPLERS
    return names


def schedulers() -> list[str]:
    """Names of ComfyUI's schedulers, those of other packs among them."""
    names: list[str] = comfy.samplers.KSampler.SCHEDULERS
    return names


@dataclass(frozen=True)
class KSamplerInputs:
    """KSampler's inputs by their own names, and what KSampler Advanced adds to them."""

    model: Any
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    positive: Any
    negative: Any
    latent_image: dict[str, Any]
    denoise: float = 1.0
    add_noise: str = "enable"
    start_at_step: int | None = None
    end_at_step: int | None = None
    return_with_leftover_noise: str = "enable"


def prepare(
    inputs: KSamplerInputs,
    vae: Any,
    weight: Any,
    trace: Trace | None = None,
    node: str | None = None,
    strength: float = 1.0,
    **optional: Any,
) -> Weight:
    """What every sampler node does before it samples: check its inputs, and meet the page.

    Args:
        inputs: KSampler's.
        vae: as connected.
        weight: as connected.
        trace: of the run, labelled by the method; it learns the weight's name and its page.
        node: the node's id in the graph.
        strength: power of the weight; at 0 any latents are KSampler's own affair.
        optional: sockets that may stay empty.

    Returns:
        The weight, without the strength.

    Raises:
        ValueError: an input that no run can use.
    """
    check_connected(
        model=inputs.model,
        positive=inputs.positive,
        negative=inputs.negative,
        latent_image=inputs.latent_image,
        vae=vae,
        weight=weight,
        **filled(**optional),
    )
    check_denoise(inputs.denoise, inputs.steps)
    if strength != 0:
        check_latent(inputs.latent_image["samples"])
        check_mask(inputs.latent_image)
    known = as_weight(weight)
    if trace is not None:
        trace.label, trace.watcher = f"{trace.label}, {known.name}", watcher(node)
    remember(node, inputs.model)
    return known


def sample_as_ksampler(inputs: KSamplerInputs) -> dict[str, Any]:
    """KSampler's LATENT of these inputs, by its own code."""
    (latent,) = common_ksampler(
        inputs.model,
        inputs.seed,
        inputs.steps,
        inputs.cfg,
        inputs.sampler_name,
        inputs.scheduler,
        inputs.positive,
        inputs.negative,
        inputs.latent_image,
        denoise=inputs.denoise,
        disable_noise=inputs.add_noise == "disable",
        start_step=inputs.start_at_step,
        last_step=inputs.end_at_step,
        force_full_denoise=inputs.return_with_leftover_noise == "disable",
    )
    done: dict[str, Any] = latent
    return done


def ksampler_levels(model: Any, steps: int, sampler: str, scheduler: str, denoise: float) -> Tensor:
    """The noise levels that KSampler would go through, by its own code."""
    check_denoise(denoise, steps)
    sigmas: Tensor = comfy.samplers.KSampler(
        model, steps, "cpu", sampler=sampler, scheduler=scheduler, denoise=denoise
    ).sigmas
    return sigmas.float()
