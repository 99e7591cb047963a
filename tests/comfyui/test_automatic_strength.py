"""Automatic strength: what a run measures, says and uses is one number, and the right one."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from comfy.patcher_extension import PatcherInjection
from comfy_extras import nodes_model_advanced
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, flow_of, with_hook_lora
from comfyui_support.weighing import case_of, combine, demo_case, load_weight, pictures, scores
from lags_pack.nodes.weights.simple import LAGSWeightColor
from lags_pack.rewards import ColourReward, JpegSizeReward, Weight
from lags_pack.rewards.masked import masked
from lags_pack.runtime import lookahead
from lags_pack.runtime.strengths import IMAGES, STEPS

NATS = 3.0


@pytest.fixture(scope="module")
def case(sd15, weight_files) -> Case:
    """The tiny SD1.5; four images of 32 x 32, four steps."""
    return case_of(sd15)


@pytest.fixture
def pick(weight_files) -> Weight:
    return load_weight("PickScore", strength=1.0, auto_nats=NATS)


@pytest.mark.parametrize("mode", ["balanced", "paper", "fast"])
def test_the_number_by_hand_gives_the_same_picture(case, pick, mode, caplog):
    with caplog.at_level(logging.INFO):
        automatic, trace = case.lags(weight=pick, mode=mode)
    assert trace.measured == ("PickScore",) and list(trace.strengths) == ["PickScore"]
    strength = trace.strengths["PickScore"]
    assert f"weight 'PickScore' is {strength:.6g}: 3 nats for a standard deviation" in caplog.text
    assert f"{NATS / strength:.4g} in its score" in caplog.text
    by_hand, told = case.lags(weight=load_weight("PickScore", strength=strength), mode=mode)
    assert torch.equal(automatic, by_hand)
    assert told.measured == () and told.strengths == trace.strengths
    assert trace.weight_calls == told.weight_calls, "no gradient is taken to measure"


def test_what_it_costs_is_counted_once(case, pick):
    """The quick images serve the next run of the same prompt; they are scored again."""
    lookahead.cached.clear()
    (_, first), (_, again) = (case.lags(weight=pick, mode="fast", seed=seed) for seed in (3, 4))
    by_hand = load_weight("PickScore", strength=first.strengths["PickScore"])
    _, told = case.lags(weight=by_hand, mode="fast")
    rounds = math.ceil(IMAGES / len(case.settings["latent_image"]["samples"]))
    assert first.model_calls == told.model_calls + rounds * STEPS
    assert again.model_calls == told.model_calls
    assert first.value_calls == again.value_calls == told.value_calls + rounds


def measured(case: Case, weight: Weight, **changes: Any) -> float:
    """The strength of a PickScore, measured in a run of few steps."""
    _, trace = case.lags(weight=weight, **{"mode": "fast", "steps": 2, **changes})
    return trace.strengths["PickScore"]


def test_seed_and_batch_change_nothing(case, pick):
    """A graph has one strength: what is tuned on one seed holds for the next."""
    one = {"samples": case.settings["latent_image"]["samples"][:1]}
    first, other = measured(case, pick, seed=3), measured(case, pick, seed=4)
    assert first == other
    assert measured(case, pick, latent_image=one) == pytest.approx(first, rel=1e-4)


def test_the_sign_is_that_of_the_strength(case, pick):
    less = load_weight("PickScore", strength=-0.5, auto_nats=NATS)
    up, down = (case.lags(weight=weight, mode="fast") for weight in (pick, less))
    assert down[1].strengths["PickScore"] == -up[1].strengths["PickScore"] < 0
    more, fewer = (scores(pick, pictures(case, samples)).mean() for samples, _ in (up, down))
    assert more > fewer + 5


@pytest.mark.parametrize("change", ["sampling", "injection"])
def test_what_is_patched_beside_the_weights_is_measured_anew(case, pick, change):
    """The quick images of a model served those that differ in no patch of a weight."""
    if change == "sampling":
        node = nodes_model_advanced.ModelSamplingDiscrete
        (model,) = run_node(node, model=case.model, sampling="v_prediction", zsnr=False)
    else:
        model = case.model.clone()
        patched = PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)
        model.set_injections("bypassed_lora", [patched])
    lookahead.cached.clear()
    first, after = measured(case, pick), measured(case, pick, model=model)
    assert len(lookahead.cached) == 2, "sampled anew"
    assert measured(case, pick) == first and len(lookahead.cached) == 2
    assert (after != first) == (change == "sampling")


@pytest.mark.parametrize("power", [2.0, -2.0])
def test_the_samplers_strength_multiplies(case, pick, power):
    once, twice = (measured(case, pick, strength=strength) for strength in (1.0, power))
    assert twice == pytest.approx(power * once, rel=1e-6)


def test_each_prompt_of_a_batch_has_quick_images_of_its_own(case, pick):
    """Two prompts in a batch: the variance is the mean of theirs."""
    ((first, extra),) = case.settings["positive"]
    prompts = first, first.flip(1)
    alone = [NATS / measured(case, pick, positive=[[c, extra]]) for c in prompts]
    two = {"samples": case.settings["latent_image"]["samples"][:2]}
    both = measured(case, pick, positive=[[torch.cat(prompts), extra]], latent_image=two)
    mean = sum(deviation**2 for deviation in alone) / 2
    assert NATS / both == pytest.approx(math.sqrt(mean), rel=0.5)
    assert len(lookahead.cached[next(reversed(lookahead.cached))].samples) == 2


def test_only_what_is_automatic_is_measured(case, pick):
    by_hand = load_weight("symmetry", strength=7.0)
    hps = load_weight("HPSv2.1", auto_nats=1.0)
    off = load_weight("HPSv2", strength=0.0, auto_nats=1.0)
    weight = combine(by_hand, pick, hps, off, exponents="1, 0.5, 1, 1")
    _, trace = case.lags(weight=weight, mode="fast")
    assert trace.measured == ("PickScore", "HPSv2.1")
    assert trace.strengths["symmetry (left-right)"] == 7.0
    assert "HPSv2" not in trace.strengths, "0 is off, automatic or not"
    assert trace.strengths["PickScore"] == pytest.approx(
        measured(case, pick, steps=4) / 2, rel=1e-6
    )


def test_a_run_measures_anew(case, pick):
    """The weight in the graph stays automatic: another run chooses by its own model."""
    before = measured(case, pick)
    measured(case, pick, cfg=5.0)
    assert not pick.is_measured
    assert measured(case, pick) == before


# ---- is it the right number? ------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Case:
    """The bundled model: unlike the tiny ones it is trained, so its images have a spread."""
    return demo_case(batch=48, steps=12)


@pytest.mark.parametrize("attribute", ["brightness", "hue"])
def test_deviation_is_that_of_plain_pictures(demo, attribute):
    weight = Weight.of(ColourReward(attribute, 240.0), 1.0, NATS)
    true = float(scores(weight, pictures(demo, demo.ksampler())).std())
    _, trace = demo.lags(weight=weight, mode="fast")
    (strength,) = trace.strengths.values()
    assert true / 2 < NATS / strength < 2 * true


def test_color_node(demo):
    (weight,) = run_node(
        LAGSWeightColor, attribute="hue", hue=0.0, colour="#000000", strength=-2.0, auto_nats=NATS
    )
    latent = {"samples": demo.settings["latent_image"]["samples"][:2]}
    _, trace = demo.lags(weight=weight, mode="fast", steps=2, latent_image=latent)
    assert trace.measured == ("colour (hue)",) and trace.strengths["colour (hue)"] < 0


# ---- where it must not, or cannot -------------------------------------------------------------


class Constant(ColourReward):
    """A score that images do not change."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return super().__call__(images) * 0


def test_a_score_that_never_varies_is_refused(case, pick):
    with pytest.raises(ValueError, match="colour.*needs a score that varies.*by hand"):
        case.lags(weight=Weight.of(Constant("hue"), 1.0, NATS), mode="fast")
    assert torch.isfinite(case.lags(weight=pick, mode="fast")[0]).all()


def test_flow_model(case, pick):
    """Its first noise level has no signal, so the strength is measured at the second."""
    model = flow_of(case.model)
    settings = {"model": model, "scheduler": "simple", "sampler_name": "euler", "steps": 6}
    guided, trace = case.lags(weight=pick, **settings)
    assert trace.measured == ("PickScore",) and 0 < trace.strengths["PickScore"] < 100
    assert len(trace.records) == 5, "sigma = 1 is not guided"
    plain, better = (pictures(case, x) for x in (case.ksampler(**settings), guided))
    assert scores(pick, better).mean() > scores(pick, plain).mean()


def test_a_factor_that_is_off_changes_nothing(case):
    """It had the mask of the others forgotten, and the run refused for want of its gradient."""
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    one = masked(Weight.of(ColourReward("brightness"), 300.0), left)
    both = Weight((*one.terms, *Weight.of(JpegSizeReward(), 0.0).terms))
    (alone, _), (beside, trace) = case.lags(weight=one), case.lags(weight=both)
    assert torch.equal(alone, beside) and list(trace.strengths) == [one.name]


def test_a_scheduled_lora_begins_anew_after_the_quick_images(case, pick):
    """ComfyUI's keyframes only go forward: a run began with the last one, in every step."""
    prompt = with_hook_lora(case.model, case.settings["positive"], at_0=1.0, at_50=0.0)
    inputs = {"mode": "fast", "positive": prompt}
    automatic, trace = case.lags(weight=pick, **inputs)
    by_hand = load_weight("PickScore", strength=trace.strengths["PickScore"])
    assert torch.equal(automatic, case.lags(weight=by_hand, **inputs)[0])
    late = with_hook_lora(case.model, case.settings["positive"], at_0=0.0)
    assert not torch.equal(automatic, case.lags(weight=by_hand, mode="fast", positive=late)[0])


def test_quick_images_of_a_guided_model_are_plain(case, pick):
    """They were drawn under the first guidance, and kept when that changed."""
    found = []
    for strength in (1e-3, 30.0):
        first = case.guided(weight=Weight.of(ColourReward("brightness"), strength), mode="fast")
        lookahead.cached.clear()
        found.append(measured(case, pick, model=first))
    assert found[0] == found[1]
