"""Still-image models with a video's latents: one frame is an image, in every sampler."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.guided import REWARD, Case, vae_like
from comfyui_support.prompts import PARTICLES
from comfyui_support.weighing import case_of, mask_weight
from lags_pack.guidance.particles import PRESETS
from lags_pack.nodes.methods.dps import LAGSMethodDPS
from lags_pack.nodes.methods.lidar import LAGSMethodLiDAR
from lags_pack.nodes.methods.mpgd import LAGSMethodMPGD
from lags_pack.nodes.samplers.mmsold import LAGSMMSOLD
from lags_pack.nodes.samplers.particles import LAGSParticleSampler
from lags_pack.nodes.samplers.search import LAGSSearchSampler
from lags_pack.rewards import Weight
from lags_pack.runtime.decoded_weight import DecodedLogWeight
from lags_pack.runtime.decoders import Decoding, decoded, decoder_of
from lags_pack.runtime.models import load
from torch import Tensor

import nodes

ONE_FRAME = (2, 16, 1, 4, 4)
RED = Weight.of(REWARD, 60.0)
METHODS = {
    "dps": (LAGSMethodDPS, {"rho": 1.0, "normalised": False}),
    "lidar": (
        LAGSMethodLiDAR,
        {"count": 4, "lookahead_steps": 3, "scale": 1.0, "sigma_end": 0.1, "lookahead_seed": 0},
    ),
    "mpgd": (LAGSMethodMPGD, {"rho": 1.0}),
}
WIDGETS = {
    **{"strength": 1.0, "count": 4, "steps": 10, "smoothing": 0.6, "sigma_g": 0.05},
    **{"draws": 8, "score": "exact", "rank": 0, "seed": 5},
}


@pytest.fixture(scope="module")
def case(qwen) -> Case:
    """Two images of 32 pixels, from an empty latent without a frame, to which ComfyUI adds it."""
    empty = {"samples": torch.zeros(2, 16, 4, 4)}
    settings = {"sampler_name": "euler", "scheduler": "simple", "latent_image": empty}
    return case_of(qwen, 2, strength=60.0, **settings)


@pytest.fixture(scope="module")
def plain(case) -> Tensor:
    return case.ksampler()


def score(case: Case, samples: Tensor) -> float:
    with torch.inference_mode():
        return float(REWARD(decoded(case.vae, samples).movedim(-1, 1)).mean())


def test_comfyui_adds_the_frame(plain):
    assert plain.shape == ONE_FRAME


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_every_mode_raises_the_score(case, plain, mode):
    guided, trace = case.lags(mode=mode)
    assert guided.shape == ONE_FRAME
    assert any(record.active for record in trace.records)
    assert score(case, guided) > score(case, plain) + 1e-4
    off, _ = case.lags(mode=mode, strength=0.0)
    assert torch.equal(off, plain)


@pytest.mark.parametrize("method", METHODS)
def test_methods(case, plain, method):
    node, widgets = METHODS[method]
    with unless_no_gradient(method == "dps"):
        guided, trace = case.lags(method=run_node(node, **widgets)[0])
        assert guided.shape == ONE_FRAME and any(record.active for record in trace.records)
        moved = score(case, guided) - score(case, plain)
        assert moved > 1e-4 or (method == "lidar" and moved != 0)  # it chooses among four


def unless_no_gradient(goes_back: bool) -> Any:
    """ComfyUI 0.8.0 has a kernel in this model without a derivative, and no switch for another."""
    if goes_back and not hasattr(mm, "in_training"):
        return pytest.raises((RuntimeError, ValueError), match="autograd|differentiated")
    return nullcontext()


def test_a_frame_that_is_there_is_the_same_as_one_that_comfyui_adds(case):
    with_frame = {"samples": torch.zeros(ONE_FRAME)}
    assert torch.equal(case.lags(latent_image=with_frame)[0], case.lags()[0])


def test_the_advanced_sampler_and_the_guidance_node(case):
    guided, _ = case.lags()
    assert torch.equal(case.advanced()[0], guided)
    assert torch.equal(case.ksampler(model=case.guided()), guided)


@pytest.mark.parametrize("decoder", ["vae", "latent-rgb"])
def test_the_gradient_is_of_the_image(case, decoder):
    """The slope of log w along a direction, by differences in double steps."""
    made = decoder_of(Decoding(decoder, 0), case.vae, case.model)
    load(made.modules, made.patchers)
    log_weight = DecodedLogWeight(made, RED)
    generator = torch.Generator().manual_seed(4)
    x, way = (torch.randn(ONE_FRAME, generator=generator) for _ in range(2))
    log_w, grad = log_weight.value_and_grad(x)
    assert grad.shape == x.shape and log_w.shape == (2,)
    h = 1e-2
    with torch.no_grad():
        slope = (log_weight(x + h * way) - log_weight(x - h * way)) / (2 * h)
    torch.testing.assert_close((grad * way).flatten(1).sum(1), slope, rtol=0.05, atol=0.02)
    if decoder == "vae":
        with torch.no_grad():
            seen = case.vae.decode(case.model.model.process_latent_out(x))[:, 0].movedim(-1, 1)
        inside = (seen - 0.5).abs().amax(dim=(1, 2, 3)) < 0.5  # not clamped
        torch.testing.assert_close(RED(seen)[inside], log_w[inside], rtol=1e-3, atol=1e-2)
        assert inside.any()


@pytest.mark.parametrize("sampler", ["euler_ancestral", "lcm"])
@pytest.mark.parametrize("method", [name for name in PRESETS if name != "das_1p"])
def test_particles(case, sampler, method):
    inputs = {"model": case.model, "vae": case.vae, "weight": RED, **PARTICLES, **case.settings}
    chosen = {"method": method, "sampler_name": sampler, "particles": 2, "strength": 1.0}
    with unless_no_gradient(PRESETS[method].needs_vjp):
        latent, *_ = run_node(LAGSParticleSampler, **{**inputs, **chosen})
        assert latent["samples"].shape == ONE_FRAME and torch.isfinite(latent["samples"]).all()


def inpainting(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """An image of which the left half may be painted, and where it may."""
    generator = torch.Generator().manual_seed(8)
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = 1
    kept = {"samples": torch.randn(ONE_FRAME, generator=generator), "noise_mask": mask}
    return kept, torch.nn.functional.interpolate(mask[None], (4, 4))[0, 0] > 0


def test_inpainting_and_a_masked_weight(case):
    latent, inside = inpainting(case)
    for samples in (
        case.lags(latent_image=latent)[0],
        case.particles(latent_image=latent, method="smc", sampler_name="euler_ancestral"),
    ):
        moved = (samples - latent["samples"]).abs().amax(dim=(0, 1, 2))
        assert float(moved[~inside].max()) < 1e-4 and float(moved[inside].min()) > 1e-3
    left = mask_weight(RED, torch.nn.functional.pad(torch.ones(1, 32, 16), (0, 16)))
    guided, _ = case.lags(weight=left, mode="fast")
    moved = (guided - case.ksampler()).abs().amax(dim=(0, 1, 2))
    assert float(moved[:, :2].max()) > 1e-3


def test_search(case, plain):
    inputs = {"model": case.model, "vae": case.vae, "weight": RED, **case.settings}
    latent, log_w, *_ = run_node(LAGSSearchSampler, **inputs, rounds=0, neighbours=1, radius=0.0)
    assert torch.equal(latent["samples"], plain)
    (images,) = run_node(nodes.VAEDecode, vae=case.vae, samples=latent)
    assert log_w == pytest.approx(RED(images.clone().movedim(-1, 1)).tolist(), rel=1e-3)


def test_mmsold_takes_each_image_for_itself(case):
    """A video's VAE would make one film of them."""
    images = torch.rand(12, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    image, latent = run_node(LAGSMMSOLD, **WIDGETS, images=images, vae=case.vae)
    assert image.shape == (4, 32, 32, 3) and latent["samples"].shape == (4, *ONE_FRAME[1:])
    image, again = run_node(LAGSMMSOLD, **WIDGETS, latents=latent_of(case, images), vae=case.vae)
    torch.testing.assert_close(again["samples"], latent["samples"])


def latent_of(case: Case, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {"samples": torch.cat([case.vae.encode(image[None]) for image in images])}


def test_several_frames_are_refused(case):
    video = {"samples": torch.zeros(1, 16, 3, 4, 4)}
    for run in (case.lags, case.advanced, case.particles):
        with pytest.raises(ValueError, match=r"\(1, 16, 3, 4, 4\).*not video.*length to 1"):
            run(latent_image=video, sampler_name="euler_ancestral")
    with pytest.raises(ValueError, match="not video"):
        case.ksampler(model=case.guided(), latent_image=video)


def test_a_frame_that_the_model_has_no_place_for_is_refused(sd15):
    with pytest.raises(ValueError, match=r"an image in a video's shape.*2 dimensions"):
        case_of(sd15, 1).lags(latent_image={"samples": torch.zeros(1, 4, 1, 8, 8)})


def test_a_video_vae_on_plain_latents_is_refused(sd15, case):
    with pytest.raises(ValueError, match="video's shape and the model makes plain ones"):
        case_of(sd15, 1).lags(vae=vae_like(case.vae, latent_channels=4))
