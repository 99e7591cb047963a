"""MM-SOLD Sampler: new images from images or latents, weighted, stoppable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from comfyui_support.executing import run_node
from comfyui_support.weighing import load_weight, noise
from lags_pack.demo.shapes import draw
from lags_pack.guidance import MMSOLD
from lags_pack.nodes.samplers.mmsold import LAGSMMSOLD
from lags_pack.rewards import ColourReward, Weight
from torch import Tensor

HEART = 4
BRIGHT = Weight.of(ColourReward("brightness"), 10.0)
WIDGETS = {
    **{"strength": 1.0, "count": 8, "steps": 30, "smoothing": 0.6, "sigma_g": 0.05},
    **{"draws": 8, "score": "exact", "rank": 0, "seed": 5},
}


def hearts(count: int = 60, size: int = 32, seed: int = 0) -> Tensor:
    """An IMAGE of hearts in all colours."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(8, (count,), generator=generator)
    return draw(torch.full((count,), HEART), colour, generator, size).movedim(1, -1)


def made(**inputs: Any) -> tuple[Any, Any]:
    """(IMAGE, LATENT) of the node."""
    image, latent = run_node(LAGSMMSOLD, **{**WIDGETS, **inputs})
    return image, latent


def through(coder: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """A VAE's encode or decode as nodes run it."""
    with torch.inference_mode():
        return coder(batch)


def covariance(rows: Tensor) -> Tensor:
    centred = rows.double() - rows.double().mean(dim=0)
    return centred.T @ centred / len(rows)


def test_a_new_node_finds_its_smoothing(monkeypatch):
    widgets = {widget.id: widget for widget in LAGSMMSOLD.define_schema().inputs}
    assert widgets["score"].default == "nearest" and widgets["smoothing"].default == -1
    sample, seen = MMSOLD.sample, []

    def watched(self, *given):
        seen.append(self)
        return sample(self, *given)

    monkeypatch.setattr(MMSOLD, "sample", watched)
    made(images=hearts(), score="nearest", smoothing=-1.0)
    made(images=hearts(), score="exact", smoothing=0.0)
    assert seen == [MMSOLD(steps=30), MMSOLD(sigma=0.0, nearest=0, steps=30)]


@pytest.mark.parametrize(
    ("score", "smoothing"), [("exact", 0.6), ("nearest", 0.6), ("nearest", -1.0)]
)
def test_pixels(score, smoothing):
    images, chosen = hearts(), {"score": score, "smoothing": smoothing}
    new, latent = made(images=images, **chosen)
    assert new.shape == (8, 32, 32, 3) and new.dtype == torch.float32
    assert new.min() >= 0 and new.max() <= 1
    assert isinstance(latent, ExecutionBlocker) and "connect a VAE" in latent.message
    again, _ = made(images=images, **chosen)
    assert torch.equal(new, again)
    other, _ = made(images=images, **chosen, seed=2**64 - 1)
    assert not torch.allclose(new, other)
    apart = torch.cdist(new.flatten(1), images.flatten(1)).min(dim=1).values
    assert apart.min() > 0.5, "no copies"


@pytest.mark.parametrize("chosen", [{}, {"score": "nearest", "smoothing": -1.0}])
def test_moments_of_the_set(chosen):
    """All directions of small images: the new ones vary as the given ones, and by the blur."""
    images = 0.5 + 0.02 * torch.randn(60, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    new, _ = made(images=images, count=64, rank=12, **chosen)
    rows, given = new.flatten(1), images.flatten(1)
    assert float((rows.mean(dim=0) - given.mean(dim=0)).abs().max()) < 1e-6
    wanted = covariance(given)
    assert float((covariance(rows) - wanted).abs().max() / wanted.diagonal().max()) < 0.05


def test_images_through_a_vae(sd15):
    images = hearts(size=64)
    new, latent = made(images=images, vae=sd15.vae)
    assert new.shape == (8, 64, 64, 3)
    assert latent["samples"].shape == (8, 4, 8, 8)
    torch.testing.assert_close(new, through(sd15.vae.decode, latent["samples"]))


def test_latents_in_latents_out(kl_vae):
    given = {"samples": through(kl_vae.encode, hearts(24, size=64)), "batch_index": list(range(24))}
    image, latent = made(latents=given)
    assert set(latent) == {"samples"} and latent["samples"].shape == (8, 4, 8, 8)
    assert isinstance(image, ExecutionBlocker) and "LATENT output" in image.message
    image, same = made(latents=given, vae=kl_vae)
    assert torch.equal(same["samples"], latent["samples"])
    assert image.shape == (8, 64, 64, 3)


def test_weight_moves_the_mean_as_it_says():
    images = hearts(200)
    brightness = images.double().mean(dim=(1, 2, 3))
    log_w = 10 * ColourReward("brightness")(images.movedim(-1, 1)).double()
    wanted = float(log_w.softmax(dim=0) @ brightness)
    found = {}
    for strength in (-1.0, 0.0, 1.0):
        # Far off black and white, so that nothing is clamped.
        squeezed = 0.5 + 0.1 * (images - 0.5)
        inputs = {"images": squeezed, "weight": BRIGHT.power(10.0), "strength": strength}
        new, _ = made(**inputs, rank=6, count=40)
        found[strength] = 0.5 + 10 * (float(new.mean()) - 0.5)
    assert found[1.0] == pytest.approx(wanted, abs=2e-3)
    assert found[-1.0] < found[0.0] - 0.05 < found[1.0] - 0.1
    plain, _ = made(images=squeezed)
    off, _ = made(images=squeezed, weight=BRIGHT, strength=0.0)
    assert torch.equal(plain, off)


def test_weight_without_a_gradient_and_automatic_strength():
    images = hearts()
    black_box = load_weight("JPEG size", auto_nats=0.7)
    new, _ = made(images=images, weight=black_box)
    plain, _ = made(images=images)
    assert new.shape == plain.shape and not torch.allclose(new, plain)


def test_weight_on_latents(sd15):
    given = {"samples": through(sd15.vae.encode, hearts(24, size=64))}
    with pytest.raises(ValueError, match="connect the VAE that decodes"):
        made(latents=given, weight=BRIGHT)
    image, _ = made(latents=given, weight=BRIGHT, vae=sd15.vae)
    assert image.shape == (8, 64, 64, 3)


def test_progress_and_stop(progress):
    made(images=hearts())
    assert progress.told[0] == (0, 30) and progress.told[-1] == (30, 30)
    progress.told.clear()
    progress.act = lambda value: mm.interrupt_current_processing(value >= 12)
    with pytest.raises(mm.InterruptProcessingException):
        made(images=hearts())
    assert 12 <= progress.told[-1][0] < 30


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "Neither images nor latents is connected"),
        (
            {"images": noise(9), "latents": {"samples": torch.zeros(9, 4, 8, 8)}},
            "Both images and latents are connected",
        ),
        ({"images": noise(7)}, r"There are 7 images; expected at least 8.*Give more images\.$"),
        ({"images": noise(9), "rank": 20}, "rank is 20 and the 9 points span 8"),
        ({"images": noise(9), "draws": 3}, "draws is 3; expected an even"),
        ({"images": torch.zeros(20, 8, 8, 3)}, "20 points span 0"),
        ({"latents": {"samples": torch.zeros(20, 4, 3, 8, 8)}}, "still images, not video"),
        (
            {"images": hearts(20), "weight": BRIGHT.power(1000.0)},
            r"20 images, the weight leaves 1\.\d of them.*or lower the strength",
        ),
    ],
)
def test_refused(inputs, said):
    with pytest.raises(ValueError, match=said):
        made(**inputs)
