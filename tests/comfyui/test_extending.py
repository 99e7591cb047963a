"""The worked example of docs/extending.md, run as it stands there, by ComfyUI's own loader."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.weighing import combine, demo_case, mask_weight
from lags_pack.nodes.methods.dps import LAGSMethodDPS
from lags_pack.nodes.tools.score import LAGSScoreImages
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime.adapters import as_method, as_weight

import nodes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def example(tmp_path_factory, pack):
    """The example's node classes, loaded from a file of that text alone."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path_factory.mktemp("custom_nodes") / "warm_pictures.py"
    file.write_text(code, encoding="utf-8")
    assert asyncio.run(nodes.load_custom_node(str(file))), "ComfyUI's loader refused the example"
    return nodes.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def warm(example):
    """What its weight node puts out: a plain function."""
    return run_node(example["ExampleWarmWeight"], strength=20.0)[0]


@pytest.fixture(scope="module")
def case():
    """A small run of the demo model."""
    return demo_case(4, seed=5, steps=10)


def sampled(case, weight, **others):
    """Images of KSampler (LAGS) and their trace."""
    samples, trace = case.lags(weight=weight, **others)
    with torch.inference_mode():
        return case.vae.decode(samples).movedim(-1, 1), trace


def test_the_weight_makes_warmer_pictures_and_off_is_off(case, warm):
    plain, _ = sampled(case, warm, strength=0.0)
    guided, trace = sampled(case, warm)
    assert (warm(guided).mean() - warm(plain).mean()) > 0.01
    assert trace.label == "LAGS balanced, warmth" and trace.weight_calls > 5


def test_the_method_runs_and_is_counted(case, warm, example):
    (push,) = run_node(example["ExampleFixedPush"], length=0.05)
    plain, _ = sampled(case, warm, strength=0.0)
    guided, trace = sampled(case, warm, method=push)
    assert warm(guided).mean() > warm(plain).mean()
    assert trace.label == "fixed push, warmth"
    assert trace.model_calls == trace.weight_calls == 10
    (idle,) = run_node(example["ExampleFixedPush"], length=0.0)
    still, _ = sampled(case, warm, method=idle)
    assert torch.allclose(still, plain, atol=1e-5)


def test_it_is_combined_masked_and_scored(case, warm):
    blue = Weight.of(ColourReward("hue", hue=240.0), 10.0)
    both = combine(warm, blue)
    assert both.strengths == {"warmth": 20.0, "colour (hue)": 10.0}
    part = mask_weight(warm, torch.ones(1, 8, 8))
    assert part.terms[0].strength == 20.0
    images = torch.rand(3, 16, 16, 3)
    scores = run_node(LAGSScoreImages, images=images, weight=warm, top_k=0)[3]
    assert scores == pytest.approx(warm(images.movedim(-1, 1)).tolist(), abs=1e-6)


@pytest.mark.parametrize("wrong", [torch.zeros(1), object()])
def test_anything_else_in_a_socket_gets_a_sentence(wrong):
    with pytest.raises(ValueError, match=f"A {type(wrong).__name__} came through the weight"):
        as_weight(wrong)
    with pytest.raises(ValueError, match=f"A {type(wrong).__name__} came through the method"):
        as_method(wrong)


def test_a_function_through_the_model_is_the_dps_node(case, warm):
    def dps(denoiser, log_weight, x, sigma_ve):
        denoised, pull = denoiser.vjp(x, sigma_ve)
        _, v = log_weight.value_and_grad(denoised)
        return denoised + sigma_ve.reshape(-1, 1, 1, 1) ** 2 * pull(v)

    dps.through_model = True
    (node,) = run_node(LAGSMethodDPS, rho=1.0, normalised=False)
    expected, theirs = sampled(case, warm, method=node)
    guided, ours = sampled(case, warm, method=dps)
    assert torch.allclose(guided, expected, atol=1e-4)
    assert ours.model_calls == theirs.model_calls == 10
    assert [s.model_backwards for s in ours.records] == [s.model_backwards for s in theirs.records]


def test_a_function_that_only_looks_leaves_no_factors_of_another_step(case):
    """An automatic strength takes a gradient once; what it found is not every step's."""

    def look(denoiser, log_weight, x, sigma_ve):
        denoised = denoiser(x, sigma_ve)
        log_weight(denoised)
        return denoised

    weight = Weight.of(ColourReward("hue", hue=240.0), 1.0, 2.0)
    _, trace = sampled(case, weight, method=look)
    assert len(trace.records) == 10 and all(step.active for step in trace.records)
    assert all(step.terms is None for step in trace.records)
