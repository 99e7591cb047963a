"""LAGS Guidance on a MODEL that carries it already: each run follows the sampler's own steps."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyui_support.guided import REWARD, Case
from comfyui_support.weighing import demo_case
from lags_pack.guidance import DPS, AutogradLogWeight, CachedGradient, LiDAR, Trace, preset
from lags_pack.rewards import Weight
from lags_pack.rewards.base import Reward
from lags_pack.rewards.colour import ColourReward
from lags_pack.runtime.evaluations import Evaluations
from lags_pack.runtime.nested import Memory
from lags_pack.runtime.rng_snapshot import Snapshot
from lags_pack.runtime.run import Guidance
from torch import Tensor

BRIGHT = ColourReward("brightness", 0.0)
LITTLE = 1e-9  # a strength that moves nothing, and is not 0
METHODS = {
    "balanced": lambda: preset("balanced"),
    "every step": lambda: replace(preset("balanced"), serves=1.0, reuse=2),
    "full balanced": lambda: replace(preset("balanced"), conditional=False),
    "paper": lambda: preset("paper"),
    "fast": lambda: preset("fast"),
    "LiDAR": lambda: LiDAR(1.0, 0.5, 2, 2, 1),
    "DPS": lambda: DPS(0.1),
}


class Flat(Reward):
    """The same for every image."""

    name = "flat"

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(dim=1) * 0


@pytest.fixture(scope="module")
def case() -> Case:
    return demo_case(4, "heart", steps=12, strength=30.0)  # so its branches differ


def run(case: Case, *guidances: Guidance, **changes: Any) -> tuple[Tensor, list[Trace]]:
    """Latents of ComfyUI's KSampler, each guidance applied to what the one before gave."""
    model = case.model
    for guidance in guidances:
        model = guidance.apply(model)
    samples = case.ksampler(**{"model": model, "cfg": 1.0, **changes})
    return samples, [guidance.trace for guidance in guidances]


def bright(case: Case, strength: float, method: str = "balanced") -> Guidance:
    return Guidance(METHODS[method](), Weight.of(BRIGHT, strength), case.vae, Trace())


def hue(case: Case, strength: float, method: str = "balanced") -> Guidance:
    return Guidance(METHODS[method](), Weight.of(REWARD, strength), case.vae, Trace())


def told(trace: Trace) -> list[Any]:
    """What a run did, step by step, without how long it took."""
    told = trace.to_dict()
    records = [told["start"], *told["records"]]
    return [{k: v for k, v in (one or {}).items() if k != "seconds"} for one in records]


def same(one: Any, other: Any) -> bool:
    """Whether two such accounts agree but for rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
    return bool(one == other)


def alone(case: Case, guidance: Guidance, **changes: Any) -> tuple[Tensor, Trace]:
    """The run of one guidance, as it is where another looks at it: every D is evaluated."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Evaluations, "is_watched", True)
        samples, (trace,) = run(case, guidance, **changes)
    return samples, trace


@pytest.mark.parametrize("around", ["balanced", "every step", "paper", "LiDAR"])
@pytest.mark.parametrize(
    "sampler, cfg, under",
    [
        ("euler_ancestral", 1.0, "balanced"),
        ("euler_ancestral", 4.0, "balanced"),
        ("euler", 1.0, "every step"),
        ("euler_cfg_pp", 4.0, "paper"),
        ("heun", 1.0, "balanced"),
    ],
)
def test_guidance_of_no_strength_around_another_leaves_it_as_it_is(
    case, around, sampler, cfg, under
):
    """Red before: its second evaluations advanced what the inner run remembers."""
    chosen = {"sampler_name": sampler, "cfg": cfg}
    its_own, its = alone(case, bright(case, 60.0, under), **chosen)
    guidances = hue(case, LITTLE, around), bright(case, 60.0, under)
    both, (_, inner) = run(case, *guidances, **chosen)
    assert torch.allclose(its_own, both, atol=1e-4)
    assert same(told(inner), told(its))


@pytest.mark.parametrize("under", ["balanced", "paper", "fast"])
@pytest.mark.parametrize("around", ["full balanced", "paper"])
def test_guidance_of_no_strength_under_another_leaves_it_as_it_is(case, around, under):
    """Red before: the inner run's start went through the outer one, as a step of it."""
    its_own, its = alone(case, hue(case, 30.0, around), cfg=4.0)
    both, (outer, _) = run(case, hue(case, 30.0, around), bright(case, LITTLE, under), cfg=4.0)
    assert torch.allclose(its_own, both, atol=1e-4)
    assert len(outer.records) == len(its.records) == 12


def test_what_is_compared_is_evaluated_in_both(case):
    """Red before: the inner run foresaw its first D, and evaluated it where it was compared."""
    guidances = hue(case, 30.0, "paper"), bright(case, 60.0)
    both, (outer, _) = run(case, *guidances)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Evaluations, "is_watched", True)
        evaluated, (its, _) = run(case, hue(case, 30.0, "paper"), bright(case, 60.0))
    assert torch.equal(both, evaluated) and same(told(outer), told(its))


@pytest.mark.parametrize("pair", [("DPS", "balanced"), ("balanced", "DPS"), ("DPS", "DPS")])
def test_methods_that_go_back_through_the_model_go_alone(case, pair):
    """Red before: an error of autograd's, said to be that of a compiled model."""
    with pytest.raises(ValueError, match="from before that LAGS Guidance.*Combine Weights"):
        run(case, hue(case, 30.0, pair[0]), bright(case, 60.0, pair[1]))


def test_what_is_short_of_memory_says_so_itself(case, monkeypatch):
    """Red before: a weight that did not fit was said to be the diffusion model."""
    inner = bright(case, 60.0, "paper")

    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ColourReward, "__call__", full)
    with pytest.raises(torch.cuda.OutOfMemoryError) as its:
        run(case, bright(case, 60.0, "paper"))
    with pytest.raises(torch.cuda.OutOfMemoryError) as nested:
        run(case, Guidance(preset("paper"), Weight.of(Flat(), 1.0), case.vae, Trace()), inner)
    assert "weight" in str(its.value) and "brightness" in str(nested.value)


def test_the_outer_start_leaves_no_step_of_the_inner_out(case):
    """Red before: where a first D was foreseen, the inner run began at the second step."""
    _, (_, inner) = run(case, hue(case, 30.0), bright(case, 60.0, "paper"))
    assert len(inner.records) == 12


def test_several_looks_begin_from_the_same_memory():
    """As after a look that ran out of memory, and was taken once more."""
    guided = SimpleNamespace(memory=Memory(CachedGradient(AutogradLogWeight(torch.sum, ""), 2)))
    before = Snapshot({"lags_1": guided, "other": None}, torch.device("cpu"))
    guided.memory.state.keep, own = 0.5, guided.memory
    for _ in range(2):
        with before.again():
            assert guided.memory.is_aside and guided.memory.state.keep is None
            guided.memory.state.keep, guided.memory.cached.computed = 0.1, 7
    assert guided.memory is own and not own.is_aside
    assert (own.state.keep, own.cached.computed) == (0.5, 0)


def test_both_weights_arrive(case):
    plain = case.ksampler(cfg=1.0)
    together, traces = run(case, hue(case, 30.0), bright(case, 60.0))
    with torch.inference_mode():
        images, before = (case.vae.decode(x).movedim(-1, 1) for x in (together, plain))
        for reward in (REWARD, BRIGHT):
            assert float((reward(images) - reward(before)).mean()) > 0.03
    assert [len(trace.records) for trace in traces] == [12, 12]
    assert torch.equal(run(case, hue(case, 30.0), bright(case, 60.0))[0], together)


def test_particles_refuse_a_model_with_guidance(case):
    model = bright(case, 60.0).apply(case.model)
    with pytest.raises(ValueError, match="from before LAGS Guidance.*Combine Weights"):
        case.particles(model=model)
    case.particles()
