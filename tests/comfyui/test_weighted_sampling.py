"""Sampling with the weights of networks: the score rises, masks hold, and the trace tells it."""

from __future__ import annotations

import json

import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, on
from comfyui_support.weighing import (
    case_of,
    classify,
    combine,
    gain_of,
    load_weight,
    mask_weight,
    pictures,
    reference,
    scores,
)
from lags_pack.guidance import Trace
from lags_pack.nodes.tools.score import LAGSScoreImages
from lags_pack.rewards import Weight
from torch import Tensor

IN_EACH_MODE = pytest.mark.parametrize("mode", ["balanced", "paper", "fast"])


@pytest.fixture(scope="module")
def cases(sd15, sdxl, weight_files) -> dict[str, Case]:
    """The tiny models; four images of 32 x 32, four steps."""
    return {"sd15": case_of(sd15), "sdxl": case_of(sdxl)}


@pytest.fixture
def plain(case) -> Tensor:
    """What the model draws without guidance, as IMAGE."""
    return pictures(case, case.ksampler())


@pytest.fixture
def pick(weight_files) -> Weight:
    return load_weight("PickScore", strength=0.3)


@pytest.fixture
def both(pick) -> Weight:
    return combine(pick, load_weight("HPSv2.1", strength=30.0))


@on("sd15", "sdxl")
@IN_EACH_MODE
def test_pickscore_rises(case, plain, pick, mode):
    """By 12 to 33 of its units, where plain images differ by 10 to 12."""
    (gain,), trace, _ = gain_of(case, pick, plain, mode=mode)
    assert gain > 5
    check_terms(trace, {"PickScore": 0.3})


def test_negative_strength_lowers_it(case, plain, pick):
    (gain,), trace, _ = gain_of(case, pick, plain, mode="fast", strength=-1.0)
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
    **{"HPSv2.1": 100.0, "HPSv2": 100.0, "ImageReward": 30.0, "CLIP score": 100.0},
    **{"aesthetic": 300.0, "sharpness": 20.0, "symmetry": 300.0},
}


def check_rises(case: Case, weight: Weight, plain: Tensor) -> None:
    """By more than a quarter of the standard deviation of plain images."""
    (gain,), _, _ = gain_of(case, weight, plain, mode="paper")
    assert gain > 0.25 * scores(weight, plain)[0].std()


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_other_score_rises(case, plain, name):
    check_rises(case, load_weight(name, strength=STRENGTHS[name]), plain)


@pytest.mark.parametrize(
    ("like", "file", "strength"),
    [
        ("content", "clip_vision/clip_vision.safetensors", 30.0),
        ("content", "tiny-dinov2/model.safetensors", 30.0),
        ("content", "siglip-tiny/model.safetensors", 100.0),
        ("style", "clip_vision/clip_vision.safetensors", 0.01),
        ("perceptual", "vgg16-397923af.pth", 300.0),
    ],
)
def test_reference_is_approached(case, plain, like, file, strength):
    image = pictures(case, case.ksampler(seed=11))[:1]
    check_rises(case, reference(image, like, file=file, strength=strength), plain)


@pytest.mark.parametrize("goal", ["towards", "away", "balance"])
def test_classifier_is_obeyed(case, plain, goal):
    weight = classify(strength=15.0, goal=goal, classes="red, blue", targets="", rates="9, 1")
    check_rises(case, weight, plain)


# ---- several weights --------------------------------------------------------------------------


@IN_EACH_MODE
def test_two_weights_raise_both_scores(case, plain, both, mode):
    """PickScore by 12 to 40, HPS by 0.05 to 0.09; J of a random network is no covariance."""
    gain, trace, _ = gain_of(case, both, plain, mode=mode)
    assert gain[0] > 5 and gain[1] > 0.025
    check_terms(trace, {"PickScore": 0.3, "HPSv2.1": 30.0})


def test_weight_without_gradient_is_refused(case):
    pair = combine(*(load_weight(name) for name in ("symmetry", "JPEG size")))
    with pytest.raises(
        ValueError, match="'JPEG size' has no gradient.*Particle KSampler.*Search KSampler"
    ):
        case.lags(weight=pair)


# ---- masks ------------------------------------------------------------------------------------


def corner(weight: Weight, side: int, of: int) -> Weight:
    """Mask Weight with a square in the upper left corner."""
    return mask_weight(weight, square(side, of).float()[None])


def rms(difference: Tensor, where: Tensor) -> float:
    """Root mean square over the places of a [H, W] mask, of [B, H, W, C] or [B, C, H, W]."""
    over = (0, 3) if difference.shape[-1] == 3 else (0, 1)
    return float(difference.square().mean(dim=over)[where].mean().sqrt())


def square(side: int, of: int) -> Tensor:
    inside = torch.zeros(of, of, dtype=torch.bool)
    inside[:side, :side] = True
    return inside


@pytest.mark.parametrize("mode", ["paper", "fast"])
def test_masked_weight_moves_the_masked_area(sd15, pick, mode):
    """Latents 2100 to 2300 times as much inside; images 5 times, and 56 away from the edge.

    The tiny decoder has random weights and smears a latent over 30 pixels; without a mask all
    three ratios are 0.7 to 0.9.
    """
    case = case_of(sd15, batch=1, size=16, steps=4)
    before = case.ksampler()
    after, _ = case.lags(weight=corner(pick, 32, 128), mode=mode)
    change = pictures(case, after) - pictures(case, before)
    inside, near = square(32, 128), square(64, 128)
    assert rms(change, inside) > 0.01
    assert rms(change, inside) > 3 * rms(change, ~inside)
    assert rms(change, inside) > 20 * rms(change, ~near)
    latents = square(4, 16)
    assert rms(after - before, latents) > 100 * rms(after - before, ~latents)


@IN_EACH_MODE
def test_masked_weight_raises_the_score_inside(case, plain, pick, mode):
    """By 3 to 33."""
    (gain,), trace, _ = gain_of(case, corner(pick, 16, 32), plain, mode=mode)
    assert gain > 2
    check_terms(trace, {"PickScore, masked": 0.3})


def test_one_masked_weight_of_two_leaves_the_other_free(case, pick):
    """Only where all weights are masked is the rest left alone."""
    hps = load_weight("HPSv2.1", strength=30.0)
    mixed = combine(corner(pick, 16, 32), hps)
    change = case.lags(weight=mixed, mode="paper")[0] - case.ksampler()
    outside = ~square(2, 4)
    assert rms(change, outside) > 0.1 * rms(change, ~outside)


def start() -> Tensor:
    return torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("mode", ["paper", "fast"])
def test_mask_and_inpainting_together(case, pick, mode):
    """The weight's mask is on the left, the inpainting is above: what moves is upper left."""
    above, left = torch.zeros(1, 1, 32, 32), torch.zeros(1, 32, 32)
    above[..., :16, :] = left[..., :16] = 1
    weight = mask_weight(pick, left)
    latent = {"latent_image": {"samples": start(), "noise_mask": above}}
    before = case.ksampler(**latent)
    (gain,), trace, after = gain_of(case, weight, pictures(case, before), **latent, mode=mode)
    assert gain > 0
    assert torch.equal(after[:, :, 2:], before[:, :, 2:])
    inside, beside = square(2, 4), torch.zeros(4, 4, dtype=torch.bool)
    beside[:2, 2:] = True
    assert rms(after - before, inside) > 0.05
    assert rms(after - before, inside) > 20 * rms(after - before, beside)
    check_terms(trace, {"PickScore, masked": 0.3})


def test_the_weight_sees_the_picture_that_is_kept(case, pick):
    """Where nothing may be painted, log w is that of the image that came in, at every step."""
    latent = {"samples": start(), "noise_mask": torch.zeros(1, 32, 32)}
    after, trace = case.lags(latent_image=latent, weight=pick, mode="paper")
    expected = 0.3 * scores(pick, pictures(case, start()))[0]
    assert len(trace.records) == 4 and all(record.active for record in trace.records)
    for record in trace.records:
        torch.testing.assert_close(record.log_w, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after, start(), rtol=1e-4, atol=1e-4)


def test_differential_diffusion(case, pick):
    (model,) = run_node(DifferentialDiffusion, model=case.model)
    # Of the last column ComfyUI paints little, and only in the last step; all of the first.
    slope = torch.tensor([1.0, 0.7, 0.3, 0.0]).expand(1, 1, 4, 4).clone()
    settings = {"latent_image": {"samples": start(), "noise_mask": slope}, "model": model}
    before = case.ksampler(**settings)
    plain = pictures(case, before)
    (gain,), _, _ = gain_of(case, pick, plain, **settings, mode="paper")
    assert gain > 0
    _, trace, after = gain_of(case, pick, plain, **settings, mode="balanced")
    change = (after - before).square().mean(dim=(0, 1, 2)).sqrt()
    assert change[0] > 3 * change[2] and change[0] > 50 * change[3]
    check_terms(trace, {"PickScore": 0.3})


# ---- what a user does next --------------------------------------------------------------------


def test_guided_pictures_win_in_score_images(case, plain, pick):
    batch = torch.cat([plain, pictures(case, case.lags(weight=pick)[0])])
    _, _, best, given, _ = run_node(LAGSScoreImages, images=batch, weight=pick, top_k=1)
    assert best >= 4, "the best of both is a guided one"
    assert sum(given[4:]) > sum(given[:4])
