"""Search KSampler: KSampler's own images, of which the best is kept."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.guided import Case
from comfyui_support.weighing import case_of, demo_case, load_weight
from lags_pack.nodes.samplers.search import LAGSSearchSampler
from lags_pack.rewards import ColourReward, Weight
from torch import Tensor

import nodes

RED = Weight.of(ColourReward("hue", 0.0), 30.0)
WIDGETS = {"rounds": 2, "neighbours": 2, "radius": 0.0}


def searched(case: Case, **changes: Any) -> tuple[Tensor, list[float], str]:
    latent, log_w, summary, _ = outputs(case, **changes)
    return latent["samples"], log_w, summary


def outputs(case: Case, **changes: Any) -> tuple[Any, ...]:
    inputs = {"model": case.model, "vae": case.vae, "weight": RED, **WIDGETS, **case.settings}
    return run_node(LAGSSearchSampler, **{**inputs, **changes})


@pytest.fixture(scope="module", params=["demo", "sd15", "sdxl"])
def case(request, sd15, sdxl) -> Case:
    if request.param == "demo":
        return demo_case(2)
    return case_of({"sd15": sd15, "sdxl": sdxl}[request.param], 2)


def log_w_of(case: Case, latents: Tensor) -> Tensor:
    (images,) = run_node(nodes.VAEDecode, vae=case.vae, samples={"samples": latents})
    with torch.inference_mode(False):
        return RED(images.clone().movedim(-1, 1))


def test_no_rounds_are_ksampler_bit_for_bit(case):
    drawn, log_w, summary = searched(case, rounds=0)
    assert torch.equal(drawn, case.ksampler())
    assert log_w == pytest.approx(log_w_of(case, drawn).tolist(), rel=1e-4)
    assert summary.startswith("best of 1 runs, 4 model evaluations")


def test_best_of_n_is_the_best_of_the_next_seeds(case):
    """Where the sampler draws nothing on the way."""
    seed = case.settings["seed"]
    runs = [case.ksampler(sampler_name="euler", seed=seed + i) for i in range(5)]
    scores = torch.stack([log_w_of(case, run) for run in runs])
    drawn, log_w, summary = searched(case, sampler_name="euler")
    for picture, (value, index) in enumerate(zip(*scores.max(dim=0), strict=True)):
        assert log_w[picture] == pytest.approx(float(value), rel=1e-4)
        assert torch.equal(drawn[picture], runs[int(index)][picture])
    assert summary.startswith("best of 5 runs, 20 model evaluations")


def test_the_seed_of_the_best_gives_it_again(case):
    latent, *_, seeds = outputs(case, sampler_name="euler")
    assert len(seeds) == len(latent["samples"])
    for place, seed in enumerate(seeds):
        again = case.ksampler(sampler_name="euler", seed=seed)
        assert torch.equal(again[place], latent["samples"][place])
    mixed = outputs(case, radius=0.3, rounds=1)[3]
    assert len(mixed) == 2 and all("radius to 0" in one.message for one in mixed)


def test_a_search_stays_near_and_never_falls(case):
    first = log_w_of(case, case.ksampler())
    _, near, summary = searched(case, radius=0.05)
    assert all(after >= before - 1e-4 for after, before in zip(near, first.tolist(), strict=True))
    assert summary.startswith("search within 0.05 of 5 runs")
    again = searched(case, radius=0.05)
    assert again[1] == near


@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_an_automatic_strength_is_measured_on_plain_images(case, radius):
    """By the first two runs: those of the search itself where each noise is fresh."""
    automatic = Weight.of(ColourReward("hue", 0.0), 1.0, spread=2.0)
    seed = case.settings["seed"]
    runs = [case.ksampler(sampler_name="euler", seed=seed + i) for i in range(2)]
    scores = torch.cat([log_w_of(case, run) for run in runs]) / 30
    strength = 2.0 / float(scores.std())
    drawn, log_w, summary = searched(case, weight=automatic, radius=radius, sampler_name="euler")
    by_hand, wanted, _ = searched(case, radius=radius, sampler_name="euler")
    assert torch.equal(drawn, by_hand)
    assert log_w == pytest.approx([strength / 30 * value for value in wanted], rel=1e-3)
    further = "" if radius == 0 else " (1 further runs)"
    said = f"; strength measured on 4 plain images{further}: colour (hue) {strength:.4g}"
    assert summary.endswith(said)


def test_mask_part_of_the_steps_and_a_weight_without_gradient(case):
    latent = dict(case.settings["latent_image"])
    latent["noise_mask"] = torch.zeros(1, *(8 * side for side in latent["samples"].shape[-2:]))
    kept, _, _ = searched(case, latent_image=latent, denoise=0.5, cfg=1.0)
    assert torch.allclose(kept, latent["samples"].to(kept), atol=1e-4)
    black = load_weight("JPEG size")
    assert torch.isfinite(torch.tensor(searched(case, weight=black)[1])).all()


@pytest.mark.parametrize("side", [None, 4, 8, 16])
def test_empty_latents_begin_at_the_size_that_ksampler_gives_them(case, side):
    """What an empty LATENT says of its scale is used once, where this ComfyUI knows of it."""
    latent = {"samples": torch.zeros(2, 4, 8, 8), "downscale_ratio_temporal": 1}
    if side is not None:
        latent["downscale_ratio_spacial"] = side
    drawn, _, _ = searched(case, rounds=0, latent_image=latent, steps=2)
    assert torch.equal(drawn, case.ksampler(latent_image=latent, steps=2))
    inputs = {"model": case.model, "vae": case.vae, "weight": RED, **WIDGETS, **case.settings}
    ours = run_node(LAGSSearchSampler, **{**inputs, "latent_image": latent, "rounds": 0})[0]
    (theirs,) = run_node(
        nodes.KSampler, model=case.model, **{**case.settings, "latent_image": latent}
    )
    assert set(ours) == set(theirs)


def test_refused_and_interrupted(case):
    with pytest.raises(ValueError, match="0 neighbours"):
        searched(case, neighbours=0)
    mm.interrupt_current_processing()
    with pytest.raises(mm.InterruptProcessingException):
        searched(case)
