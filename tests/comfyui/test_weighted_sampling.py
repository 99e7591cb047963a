"""Sampling with the weights of networks: the score rises, masks hold, and the trace tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_support.guided import Case
from comfyui_support.weighing import (
    Run,
    case_of,
    gain_of,
    load_weight,
    pictures,
    reference,
    scores,
)
from lags_pack.guidance import Trace
from lags_pack.nodes.weights.classifier import LAGSWeightClassifier
from lags_pack.nodes.weights.combine import LAGSCombineWeights, LAGSMaskWeight
from lags_pack.rewards import Weight
from torch import Tensor

import nodes

MODES = ("balanced", "paper", "fast")


@pytest.fixture(scope="module")
def cases(run_node: Run, sd15: Any, sdxl: Any, weight_files: Path) -> dict[str, Case]:
    """The tiny models; four images of 32 x 32, four steps."""
    return {"sd15": case_of(run_node, sd15), "sdxl": case_of(run_node, sdxl)}


@pytest.fixture(scope="module")
def plain(cases: dict[str, Case]) -> dict[str, Tensor]:
    """What each model draws without guidance, as IMAGE."""
    return {kind: pictures(case, case.ksampler()) for kind, case in cases.items()}


@pytest.fixture
def pick(run_node: Run, weight_files: Path) -> Weight:
    return load_weight(run_node, "PickScore", strength=0.3)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize("mode", MODES)
def test_pickscore_rises(
    cases: dict[str, Case], plain: dict[str, Tensor], pick: Weight, kind: str, mode: str
) -> None:
    """By 12 to 33 of its units, where plain images differ by 10 to 12."""
    (gain,), trace, _ = gain_of(cases[kind], pick, plain[kind], mode=mode)
    assert gain > 5
    check_terms(trace, {"PickScore": 0.3})


def test_negative_strength_lowers_it(
    cases: dict[str, Case], plain: dict[str, Tensor], pick: Weight
) -> None:
    (gain,), trace, _ = gain_of(cases["sd15"], pick, plain["sd15"], mode="fast", strength=-1.0)
    assert gain < -3
    check_terms(trace, {"PickScore": -0.3})


def check_terms(trace: Trace, strengths: dict[str, float]) -> None:
    """Strengths as given; terms that sum to log w where a step was guided, and nowhere else."""
    assert trace.strengths == strengths and trace.measured == ()
    active = [record for record in trace.records if record.active]
    assert active
    for record in [*active, *([trace.start] if trace.start else [])]:
        assert list(record.terms) == list(strengths)
        torch.testing.assert_close(sum(record.terms.values()), record.log_w, rtol=1e-4, atol=1e-4)
        assert all(values.shape == (4,) and values.std() > 0 for values in record.terms.values())
    assert all(record.terms is None for record in trace.records if not record.active)
    told = json.loads(json.dumps(trace.to_dict()))
    assert told["strengths"] == strengths
    assert [r["terms"] is not None for r in told["records"]] == [r.active for r in trace.records]


STRENGTHS = {
    "HPSv2.1": 100.0,
    "HPSv2": 100.0,
    "ImageReward": 30.0,
    "CLIP score": 100.0,
    "aesthetic": 300.0,
    "sharpness": 20.0,
    "symmetry": 300.0,
}


def check_rises(case: Case, weight: Weight, plain: Tensor) -> None:
    """By more than a quarter of the standard deviation of plain images."""
    (gain,), _, _ = gain_of(case, weight, plain, mode="paper")
    assert gain > 0.25 * scores(weight, plain)[0].std()


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_other_score_rises(
    run_node: Run, cases: dict[str, Case], plain: dict[str, Tensor], name: str
) -> None:
    weight = load_weight(run_node, name, strength=STRENGTHS[name])
    check_rises(cases["sd15"], weight, plain["sd15"])


@pytest.mark.parametrize(
    ("like", "file", "strength"),
    [
        ("content", "clip_vision/clip_vision.safetensors", 30.0),
        ("content", "tiny-dinov2/model.safetensors", 30.0),
        ("style", "clip_vision/clip_vision.safetensors", 0.01),
    ],
)
def test_reference_is_approached(
    run_node: Run,
    cases: dict[str, Case],
    plain: dict[str, Tensor],
    like: str,
    file: str,
    strength: float,
) -> None:
    image = pictures(cases["sd15"], cases["sd15"].ksampler(seed=11))[:1]
    weight = reference(run_node, image, like, file=file, strength=strength)
    check_rises(cases["sd15"], weight, plain["sd15"])


@pytest.mark.parametrize("goal", ["towards", "away", "balance"])
def test_classifier_is_obeyed(
    run_node: Run, cases: dict[str, Case], plain: dict[str, Tensor], goal: str
) -> None:
    (weight,) = run_node(
        LAGSWeightClassifier,
        file="tiny-vit/model.safetensors",
        goal={"goal": goal, "classes": "red, blue", "targets": "", "rates": "9, 1"},
        precision="auto",
        strength=15.0,
        auto_nats=0.0,
    )
    check_rises(cases["sd15"], weight, plain["sd15"])


# ---- several weights --------------------------------------------------------------------------


@pytest.fixture
def both(run_node: Run, pick: Weight) -> Weight:
    hps = load_weight(run_node, "HPSv2.1", strength=30.0)
    weights = {"weight0": pick, "weight1": hps}
    return run_node(LAGSCombineWeights, weights=weights, exponents="")[0]


@pytest.mark.parametrize("mode", MODES)
def test_two_weights_raise_both_scores(
    run_node: Run, cases: dict[str, Case], plain: dict[str, Tensor], pick: Weight, mode: str
) -> None:
    """PickScore by 12 to 17, HPS by 0.05 to 0.07 in paper mode."""
    hps = load_weight(run_node, "HPSv2.1", strength=30.0)
    weights = {"weight0": pick, "weight1": hps}
    (both,) = run_node(LAGSCombineWeights, weights=weights, exponents="")
    gain, trace, _ = gain_of(cases["sd15"], both, plain["sd15"], mode=mode)
    # A random network is nobody's posterior mean, so the whole way is worth less than a derivative.
    least = (5, 0.025) if mode == "paper" else (1, 0.01)
    assert gain[0] > least[0] and gain[1] > least[1]
    check_terms(trace, {"PickScore": 0.3, "HPSv2.1": 30.0})


def test_weight_without_gradient_is_refused(run_node: Run, cases: dict[str, Case]) -> None:
    size = load_weight(run_node, "JPEG size")
    (pair,) = run_node(
        LAGSCombineWeights,
        weights={"weight0": load_weight(run_node, "symmetry"), "weight1": size},
        exponents="",
    )
    with pytest.raises(ValueError, match="'JPEG size' has no gradient.*Score Images"):
        cases["sd15"].lags(weight=pair)


# ---- masks ------------------------------------------------------------------------------------


def masked(run_node: Run, weight: Weight, side: int, of: int) -> Weight:
    """Mask Weight with a square in the upper left corner."""
    mask = torch.zeros(1, of, of)
    mask[:, :side, :side] = 1
    return run_node(LAGSMaskWeight, weight=weight, mask=mask)[0]


def rms(difference: Tensor, where: Tensor) -> float:
    """Root mean square over the places of a [H, W] mask, of [B, H, W, C] or [B, C, H, W]."""
    over = (0, 3) if difference.shape[-1] == 3 else (0, 1)
    return float(difference.square().mean(dim=over)[where].mean().sqrt())


def square(side: int, of: int) -> Tensor:
    inside = torch.zeros(of, of, dtype=torch.bool)
    inside[:side, :side] = True
    return inside


@pytest.mark.parametrize("mode", ["paper", "fast"])
def test_masked_weight_moves_the_masked_area(
    run_node: Run, sd15: Any, pick: Weight, mode: str
) -> None:
    """Latents 2100 to 2300 times as much inside; images 5 times, and 56 away from the edge.

    The tiny decoder has random weights and smears a latent over 30 pixels; without a mask all
    three ratios are 0.7 to 0.9.
    """
    case = case_of(run_node, sd15, batch=1, size=16, steps=4)
    before = case.ksampler()
    after, _ = case.lags(weight=masked(run_node, pick, 32, 128), mode=mode)
    change = pictures(case, after) - pictures(case, before)
    inside, near = square(32, 128), square(64, 128)
    assert rms(change, inside) > 0.01
    assert rms(change, inside) > 3 * rms(change, ~inside)
    assert rms(change, inside) > 20 * rms(change, ~near)
    latents = square(4, 16)
    assert rms(after - before, latents) > 100 * rms(after - before, ~latents)


@pytest.mark.parametrize("mode", MODES)
def test_masked_weight_raises_the_score_inside(
    run_node: Run, cases: dict[str, Case], plain: dict[str, Tensor], pick: Weight, mode: str
) -> None:
    """By 3 to 33."""
    weight = masked(run_node, pick, 16, 32)
    (gain,), trace, _ = gain_of(cases["sd15"], weight, plain["sd15"], mode=mode)
    assert gain > 2
    check_terms(trace, {"PickScore, masked": 0.3})


def test_one_masked_weight_of_two_leaves_the_other_free(
    run_node: Run, cases: dict[str, Case], pick: Weight
) -> None:
    """Only where all weights are masked is the rest left alone."""
    case = cases["sd15"]
    hps = load_weight(run_node, "HPSv2.1", strength=30.0)
    weights = {"weight0": masked(run_node, pick, 16, 32), "weight1": hps}
    (mixed,) = run_node(LAGSCombineWeights, weights=weights, exponents="")
    change = case.lags(weight=mixed, mode="paper")[0] - case.ksampler()
    outside = ~square(2, 4)
    assert rms(change, outside) > 0.1 * rms(change, ~outside)


@pytest.mark.parametrize("mode", ["paper", "fast"])
def test_mask_and_inpainting_together(
    run_node: Run, cases: dict[str, Case], pick: Weight, mode: str
) -> None:
    """The weight's mask is on the left, the inpainting is above: what moves is upper left."""
    case = cases["sd15"]
    start = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    above = torch.zeros(1, 1, 32, 32)
    above[..., :16, :] = 1
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    (weight,) = run_node(LAGSMaskWeight, weight=pick, mask=left)
    latent = {"samples": start, "noise_mask": above}
    before = case.ksampler(latent_image=latent)
    (gain,), trace, after = gain_of(
        case, weight, pictures(case, before), latent_image=latent, mode=mode
    )
    assert gain > 0
    assert torch.equal(after[:, :, 2:], before[:, :, 2:])
    corner, beside = square(2, 4), torch.zeros(4, 4, dtype=torch.bool)
    beside[:2, 2:] = True
    assert rms(after - before, corner) > 0.05
    assert rms(after - before, corner) > 20 * rms(after - before, beside)
    check_terms(trace, {"PickScore, masked": 0.3})


def test_the_weight_sees_the_picture_that_is_kept(cases: dict[str, Case], pick: Weight) -> None:
    """Where nothing may be painted, log w is that of the image that came in, at every step."""
    case = cases["sd15"]
    start = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    latent = {"samples": start, "noise_mask": torch.zeros(1, 32, 32)}
    after, trace = case.lags(latent_image=latent, weight=pick, mode="paper")
    expected = 0.3 * scores(pick, pictures(case, start))[0]
    assert len(trace.records) == 4 and all(record.active for record in trace.records)
    for record in trace.records:
        torch.testing.assert_close(record.log_w, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after, start, rtol=1e-4, atol=1e-4)


def test_differential_diffusion(run_node: Run, cases: dict[str, Case], pick: Weight) -> None:
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    case = cases["sd15"]
    (model,) = run_node(DifferentialDiffusion, model=case.model)
    start = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    # Of the last column ComfyUI paints little, and only in the last step; all of the first.
    slope = torch.tensor([1.0, 0.7, 0.3, 0.0]).expand(1, 1, 4, 4).clone()
    latent = {"samples": start, "noise_mask": slope}
    before = case.ksampler(latent_image=latent, model=model)
    (gain,), trace, after = gain_of(
        case, pick, pictures(case, before), latent_image=latent, model=model, mode="paper"
    )
    assert gain > 0
    _, trace, after = gain_of(
        case, pick, pictures(case, before), latent_image=latent, model=model, mode="balanced"
    )
    change = (after - before).square().mean(dim=(0, 1, 2)).sqrt()
    assert change[0] > 3 * change[2] and change[0] > 50 * change[3]
    check_terms(trace, {"PickScore": 0.3})


# ---- what a user does next --------------------------------------------------------------------


def test_guided_pictures_win_in_score_images(
    run_node: Run, cases: dict[str, Case], plain: dict[str, Tensor], pick: Weight
) -> None:
    from lags_pack.nodes.tools.score import LAGSScoreImages

    guided, _ = cases["sd15"].lags(weight=pick)
    (image,) = run_node(nodes.VAEDecode, vae=cases["sd15"].vae, samples={"samples": guided})
    batch = torch.cat([plain["sd15"], image])
    _, _, best, given = run_node(LAGSScoreImages, images=batch, weight=pick, top_k=1)
    assert best >= 4, "the best of both is a guided one"
    assert sum(given[4:]) > sum(given[:4])
