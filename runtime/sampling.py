"""ComfyUI's KSampler for the pack's samplers: its inputs, the checks before a run, and the run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.sample
from comfy.samplers import KSampler
from torch import Tensor

# ComfyUI's own nodes.py, not this pack's folder: the drop-in samplers run exactly KSampler's code.
from nodes import common_ksampler

from ..guidance import Trace
from ..rewards import Weight
from .adapters import as_weight
from .checks import check_connected, check_denoise, check_latent, filled, seed_in_words
from .comparing import show_finished
from .decoders import Decoding
from .finished import in_list
from .last_model import remember
from .options import GuidanceInputs, Options, guided, prices_of
from .page import watcher
from .price import Price, usual_shape


@dataclass(frozen=True, kw_only=True)
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

    @property
    def settings(self) -> tuple[Any, ...]:
        """What ComfyUI's own functions take in this order, between the noise and the latents."""
        prompts = self.positive, self.negative
        return self.steps, self.cfg, self.sampler_name, self.scheduler, *prompts


@dataclass(frozen=True, kw_only=True)
class SamplerInputs(KSamplerInputs, GuidanceInputs):
    """And what the pack's samplers add to those; no node has all of it."""


def prepare(
    inputs: SamplerInputs, trace: Trace | None = None, node: str | None = None, plain: bool = False
) -> Weight:
    """The weight, after what every sampler node does first: check its inputs, meet the page.

    Args:
        inputs: of the node.
        trace: of the run, labelled by the method; it learns the weight's name and its page.
        node: the node's id in the graph.
        plain: whether the run is KSampler's own, which takes any latents.

    Raises:
        ValueError: an input that no run can use.
    """
    sockets = ("model", "positive", "negative", "latent_image", "vae", "weight")
    check_connected(**{name: getattr(inputs, name) for name in sockets})
    check_connected(**filled(options=inputs.options, method=inputs.method))
    check_denoise(inputs.denoise, inputs.steps)
    if not plain:
        check_latent(inputs.latent_image["samples"], inputs.model)
    weight = as_weight(inputs.weight)
    if trace is not None:
        trace.label, trace.watcher = f"{trace.label}, {weight.name}", watcher(node)
    remember(node, inputs.model)
    return weight


def sample_guided(inputs: SamplerInputs, node: str | None) -> tuple[dict[str, Any], Trace]:
    """KSampler's LATENT with guidance, and what every step did; ``node`` is its id.

    Of a list that was stopped, the entries that had been finished are not run again.
    """
    run = partial(_run_guided, inputs, node)
    return in_list(node, vars(inputs), run, partial(show_finished, node, inputs.vae))


def _run_guided(inputs: SamplerInputs, node: str | None) -> tuple[dict[str, Any], Trace]:
    trace = Trace(f"LAGS {inputs.mode}")
    weight = prepare(inputs, trace, node, plain=inputs.strength == 0)
    model = guided(inputs, weight, trace)
    if node is not None and model is not inputs.model:
        looks = inputs.vae, weight, inputs.latent_image, inputs.options
        remember(node, inputs.model, prices=prices_before(inputs.model, *looks))
    return sample_as_ksampler(replace(inputs, model=model)), trace


def prices_before(
    model: Any, vae: Any, weight: Any, latent: dict[str, Any] | None, options: Options | None
) -> dict[Decoding, Price]:
    """As ``prices_of``, of what is connected to a node; {} without a weight.

    Raises:
        ValueError: something else is lacking for it, or does not fit.
    """
    if weight is None:
        return {}
    lacking = [name for name, one in (("model", model), ("vae", vae)) if one is None]
    if lacking:
        raise ValueError(
            f"A weight is connected, and {' and '.join(lacking)} not: its cost is counted through "
            "the model's VAE, beside the model. Connect both, or take the weight off."
        )
    shape = usual_shape(model) if latent is None else begun_as_ksampler(model, latent)[0].shape
    return prices_of(model, vae, as_weight(weight), shape, options)


def sample_as_ksampler(inputs: KSamplerInputs) -> dict[str, Any]:
    """KSampler's LATENT of these inputs, by its own code."""
    with seed_in_words(inputs.seed):
        (latent,) = common_ksampler(
            inputs.model,
            inputs.seed,
            *inputs.settings,
            inputs.latent_image,
            denoise=inputs.denoise,
            disable_noise=inputs.add_noise == "disable",
            start_step=inputs.start_at_step,
            last_step=inputs.end_at_step,
            force_full_denoise=inputs.return_with_leftover_noise == "disable",
        )
    return latent


def begun_as_ksampler(model: Any, latent: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """(latents at the model's channels and size, the LATENT without what said its size before).

    As ``common_ksampler`` begins; what an empty LATENT says of itself goes by names that
    ComfyUI's own function takes, none in 0.8.0.
    """
    named = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    said = {name: latent[name] for name in named if name in latent}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **said)
    return samples, {name: value for name, value in latent.items() if name not in said}


def ksampler_levels(model: Any, steps: int, sampler: str, scheduler: str, denoise: float) -> Tensor:
    """The noise levels that KSampler would go through, by its own code."""
    check_denoise(denoise, steps)
    choice = {"sampler": sampler, "scheduler": scheduler, "denoise": denoise}
    return KSampler(model, steps, "cpu", **choice).sigmas.float()
