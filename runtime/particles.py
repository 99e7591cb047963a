"""KSampler with particles: what the node asks for, the run, and the run in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.utils import repeat_to_batch_size
from torch import Tensor

from ..guidance.particles import PRESETS, Particles
from ..rewards import Weight
from .checks import without_gradient
from .nested import check_unguided
from .particle_model import check_sampler
from .particle_run import NEED_GRADIENT, Choices, ParticleRun, ParticleRunTrace
from .sampling import SamplerInputs, prepare, sample_as_ksampler

NO_SEED = (
    "No particle has a seed of its own: particle 0 begins with KSampler's noise of this seed, the "
    "others with noise drawn after it. The same seed and settings give all of them again, and "
    "LATENT carries those put out on to a second pass."
)


def sample_particles(
    inputs: SamplerInputs, choices: Choices, node: str | None
) -> tuple[dict[str, Any], list[float], ParticleRunTrace, str]:
    """LATENT of the particles put out, the log of what each counts, the trace, the run in words.

    Args:
        inputs: of the node.
        choices: the method and its numbers.
        node: the node's id in the graph.

    Raises:
        ValueError: an input that no run can use, or a weight that cannot push as the method does.
        ModelFileError: the decoder's file is missing.
    """
    title = PRESETS[choices.method].title
    trace = ParticleRunTrace(title)
    weight = prepare(inputs, trace, node).power(inputs.strength).without_off
    check_sampler(inputs.sampler_name)
    check_unguided(inputs.model)
    _check_gradient(weight, choices.method)
    run = ParticleRun(inputs, choices, weight, trace)
    # Its steps are not taken, the particles walk themselves: it only prepares the noise levels.
    levels = replace(inputs, model=run.apply(inputs.model), sampler_name="euler_ancestral")
    latent = _arranged(sample_as_ksampler(levels), run.index.shape[1])
    shares = run.particles.weights.log().gather(1, run.index).flatten().tolist()
    return latent, shares, trace, _in_words(run.particles, run.index, title)


def _check_gradient(weight: Weight, method: str) -> None:
    """Refuse a weight that cannot push where the method pushes.

    Raises:
        ValueError: a factor has no gradient and the method, or the automatic strength, needs it.
    """
    if weight.differentiable or weight.is_off:
        return
    black = without_gradient(weight)
    if method in NEED_GRADIENT:
        raise ValueError(
            f"Weight '{black}' has no gradient, which method '{method}' needs: choose 'smc' or "
            "'fk', which need none."
        )
    if not weight.is_measured:
        raise ValueError(
            f"Weight '{black}' has no gradient, which an automatic strength needs: set the "
            "strengths by hand (automatic 0)."
        )


def _arranged(latent: dict[str, Any], copies: int) -> dict[str, Any]:
    """KSampler's LATENT with what belongs to single images brought to as many as came out."""
    if copies == 1:
        return latent
    latent = dict(latent)
    latent.pop("batch_index", None)
    mask, images = latent.get("noise_mask"), len(latent["samples"]) // copies
    if mask is not None and latent["samples"].ndim == 4:  # else ComfyUI takes masks for frames
        rows = repeat_to_batch_size(mask.reshape(-1, 1, *mask.shape[-2:]), images)
        latent["noise_mask"] = rows.repeat_interleave(copies, 0)
    return latent


def _in_words(particles: Particles, index: Tensor, title: str) -> str:
    """The run in words, a line for each image; ``index`` [G, K] are the particles put out."""
    groups, count = particles.log_w.shape
    trace = particles.trace
    weighings = [record.weighing for record in trace.records if record.weighing is not None]
    lines = [
        f"{title}: {count} particles for each of {groups} images, {len(trace.records)} steps; "
        f"each particle: {trace.model_calls} model evaluations, {trace.model_backwards} backward "
        f"passes through the model, {trace.weight_calls} evaluations of the weight"
    ]
    left = trace.roots(groups, count)
    for group in range(groups):
        sizes = [float(weighing.ess[group]) for weighing in weighings]
        copied = sum(bool(weighing.resampled[group]) for weighing in weighings)
        log_w = particles.log_w[group]
        lines.append(
            f"image {group}: log w best {float(log_w.max()):.4g}, mean {float(log_w.mean()):.4g}; "
            f"ESS at the end {1 / float(particles.weights[group].square().sum()):.2f}, "
            f"least {min(sizes, default=float(count)):.2f}; resampled {copied} times, "
            f"{len(left[group].unique())} of {count} first particles have descendants; "
            f"log of the mean weight {float(particles.log_normaliser[group]):.4g}; "
            f"output: {_named(index[group].tolist(), left[group].tolist())}"
        )
    return "\n".join([*lines, NO_SEED])


def _named(chosen: list[int], roots: list[int]) -> str:
    """Particles by their numbers, and the first particle that each descends from."""
    return ", ".join(f"particle {one} (began as {roots[one]})" for one in chosen)
