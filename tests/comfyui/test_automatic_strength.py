"""Automatic strength: what a run measures, says and uses is one number, and the right one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_support.guided import Case
from comfyui_support.weighing import (
    Run,
    case_of,
    demo_case,
    load_weight,
    pictures,
    scores,
)
from lags_pack.nodes.weights.combine import LAGSCombineWeights
from lags_pack.nodes.weights.simple import LAGSWeightColor
from lags_pack.rewards import ColourReward, Weight

NATS = 3.0


@pytest.fixture(scope="module")
def case(run_node: Run, sd15: Any, weight_files: Path) -> Case:
    """The tiny SD1.5; four images of 32 x 32, four steps."""
    return case_of(run_node, sd15)


@pytest.fixture
def pick(run_node: Run, weight_files: Path) -> Weight:
    return load_weight(run_node, "PickScore", strength=1.0, auto_nats=NATS)


@pytest.mark.parametrize("mode", ["balanced", "paper", "fast"])
def test_the_number_by_hand_gives_the_same_picture(
    run_node: Run, case: Case, pick: Weight, mode: str, caplog: Any
) -> None:
    with caplog.at_level(logging.INFO):
        automatic, trace = case.lags(weight=pick, mode=mode)
    assert trace.measured == ("PickScore",) and list(trace.strengths) == ["PickScore"]
    strength = trace.strengths["PickScore"]
    assert f"weight 'PickScore' is {strength:.6g}: 3 nats for a standard deviation" in caplog.text
    assert f"{NATS / strength:.4g} in its score" in caplog.text
    weight = load_weight(run_node, "PickScore", strength=strength)
    by_hand, told = case.lags(weight=weight, mode=mode)
    # The first gradient is that of the measuring, times the strength: equal but for rounding.
    torch.testing.assert_close(automatic, by_hand, rtol=0.02, atol=0.02)
    assert told.measured == () and told.strengths == trace.strengths
    assert trace.model_calls == told.model_calls + 1, "one more forward, and it is counted"
    again = int(mode == "fast")  # which skips the first step, where the strength was measured
    assert trace.weight_calls == told.weight_calls + again, "the first is not taken twice"
    first, same = (next(r for r in run.records if r.active) for run in (trace, told))
    assert first.terms is not None and same.terms is not None
    torch.testing.assert_close(
        first.terms["PickScore"], same.terms["PickScore"], rtol=1e-4, atol=1e-5
    )


def test_the_same_seed_gives_the_same_number(case: Case, pick: Weight) -> None:
    first, again, other = (
        case.lags(weight=pick, mode="fast", steps=1, seed=seed)[1].strengths["PickScore"]
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_the_sign_is_that_of_the_strength(run_node: Run, case: Case, pick: Weight) -> None:
    less = load_weight(run_node, "PickScore", strength=-0.5, auto_nats=NATS)
    up, down = (case.lags(weight=weight, mode="fast") for weight in (pick, less))
    assert down[1].strengths["PickScore"] == -up[1].strengths["PickScore"] < 0
    more, fewer = (scores(pick, pictures(case, samples)).mean() for samples, _ in (up, down))
    assert more > fewer + 5


@pytest.mark.parametrize("power", [2.0, -2.0])
def test_the_samplers_strength_multiplies(case: Case, pick: Weight, power: float) -> None:
    once, twice = (
        case.lags(weight=pick, mode="fast", steps=1, strength=strength)[1].strengths["PickScore"]
        for strength in (1.0, power)
    )
    assert twice == pytest.approx(power * once, rel=1e-6)


def test_only_what_is_automatic_is_measured(run_node: Run, case: Case, pick: Weight) -> None:
    weights = {
        "weight0": load_weight(run_node, "symmetry", strength=7.0),
        "weight1": pick,
        "weight2": load_weight(run_node, "HPSv2.1", strength=1.0, auto_nats=1.0),
        "weight3": load_weight(run_node, "HPSv2", strength=0.0, auto_nats=1.0),
    }
    (weight,) = run_node(LAGSCombineWeights, weights=weights, exponents="1, 0.5, 1, 1")
    _, trace = case.lags(weight=weight, mode="fast")
    assert trace.measured == ("PickScore", "HPSv2.1")
    assert trace.strengths["symmetry (left-right)"] == 7.0
    assert trace.strengths["HPSv2"] == 0.0, "0 is off, automatic or not"
    alone = case.lags(weight=pick, mode="fast", steps=1)[1].strengths["PickScore"]
    assert trace.strengths["PickScore"] == pytest.approx(alone / 2, rel=1e-6)


def test_a_run_measures_anew(case: Case, pick: Weight) -> None:
    """The weight in the graph stays automatic: another run chooses by its own model."""
    before = case.lags(weight=pick, mode="fast", steps=1)[1].strengths
    case.lags(weight=pick, mode="fast", steps=1, cfg=5.0)
    assert not pick.is_measured
    assert case.lags(weight=pick, mode="fast", steps=1)[1].strengths == before


# ---- is it the right number? ------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(run_node: Run) -> Case:
    """The bundled model: unlike the tiny ones it is trained, so its images have a spread."""
    return demo_case(run_node, batch=48, steps=12)


@pytest.mark.parametrize("attribute", ["brightness", "hue"])
def test_deviation_is_that_of_plain_pictures(demo: Case, attribute: str) -> None:
    """Mean brightness: 0.070 to 0.075 from one image, 0.089 to 0.093 from 16, for 0.080."""
    weight = Weight.of(ColourReward(attribute, 240.0), 1.0, NATS)
    true = float(scores(weight, pictures(demo, demo.ksampler())).std())
    shape = demo.settings["latent_image"]["samples"].shape[1:]
    for batch in (1, 16):
        latent = {"samples": torch.zeros(batch, *shape)}
        for seed in (4, 5, 6):
            _, trace = demo.lags(
                weight=weight, mode="fast", steps=1, seed=seed, latent_image=latent
            )
            (strength,) = trace.strengths.values()
            assert NATS / strength == pytest.approx(true, rel=0.35)


def test_color_node(run_node: Run, demo: Case) -> None:
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


def test_a_score_that_never_varies_is_refused(case: Case, pick: Weight) -> None:
    with pytest.raises(ValueError, match="colour.*needs a score that varies.*by hand"):
        case.lags(weight=Weight.of(Constant("hue"), 1.0, NATS), mode="fast")
    assert torch.isfinite(case.lags(weight=pick, mode="fast")[0]).all()


def test_flow_model(case: Case, pick: Weight) -> None:
    """Its first noise level has no signal, so the strength is measured at the second."""
    import comfy.model_sampling as ms

    class Flow(ms.ModelSamplingDiscreteFlow, ms.CONST):
        pass

    model = case.model.clone()
    model.add_object_patch("model_sampling", Flow(model.model.model_config))
    settings = {"model": model, "scheduler": "simple", "sampler_name": "euler", "steps": 6}
    guided, trace = case.lags(weight=pick, **settings)
    assert trace.measured == ("PickScore",) and 0 < trace.strengths["PickScore"] < 100
    assert len(trace.records) == 5, "sigma = 1 is not guided"
    plain, better = (pictures(case, x) for x in (case.ksampler(**settings), guided))
    assert scores(pick, better).mean() > scores(pick, plain).mean()
