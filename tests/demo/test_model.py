"""The bundled model: its file, its denoiser, and that it draws what it is asked for."""

from __future__ import annotations

import pytest
import torch
from lags_pack.demo.model import (
    WEIGHTS,
    DemoDenoiser,
    labels_to_context,
    load_network,
    precondition,
    to_images,
)
from lags_pack.demo.pictures import draw_pictures
from lags_pack.demo.shapes import COLOURS, HUES, SHAPES, draw, random_batch
from lags_pack.guidance import preset
from lags_pack.rewards import ColourReward, Weight


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return load_network()


def test_labels_images_and_the_file() -> None:
    context = labels_to_context("star", "blue")
    assert context.shape == (1, 1, len(SHAPES) + len(COLOURS))
    assert context.sum() == 2
    assert context[0, 0, SHAPES.index("star")] == 1
    assert context[0, 0, len(SHAPES) + COLOURS.index("blue")] == 1
    assert labels_to_context(None, None).sum() == 0
    with pytest.raises(ValueError, match="'egg' is not known"):
        labels_to_context("egg", None)
    images = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(to_images(2 * (2 * images - 1)), images)
    assert WEIGHTS.stat().st_size < 4 * 2**20


def test_training_pictures_have_the_colour_of_their_label() -> None:
    """The middle of a square is its paint: the chroma along its own hue is the largest."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.arange(len(COLOURS)).repeat(4)
    pictures = draw(torch.full_like(colours, SHAPES.index("square")), colours, generator)
    assert pictures.shape == (32, 3, 32, 32)
    assert pictures.min() >= 0 and pictures.max() <= 1
    middles = pictures[:, :, 15:17, 15:17]
    scores = torch.stack([ColourReward("hue", hue)(middles) for hue in HUES])
    assert (scores.argmax(dim=0) == colours).float().mean() > 0.9


def test_denoising_error_is_small_at_every_noise_level(network: torch.nn.Module) -> None:
    """Far below the error of predicting the mean, which is the data's variance (about 1)."""
    images, shape, colour = random_batch(64, torch.Generator().manual_seed(1))
    labels = zip(shape.tolist(), colour.tolist(), strict=True)
    context = torch.cat([labels_to_context(SHAPES[s], COLOURS[c]) for s, c in labels])
    x0 = 2 * (2 * images - 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    for level, bound in ((0.1, 0.006), (0.5, 0.04), (2.0, 0.2), (10.0, 0.9)):
        sigma = torch.full((64,), level)
        with torch.no_grad():
            denoised = precondition(network, x0 + level * noise, sigma, context)
        assert (denoised - x0).square().mean() < bound * x0.var()


def test_it_draws_the_asked_colour(network: torch.nn.Module) -> None:
    for colour in ("red", "green", "blue"):
        asked = {"shape": "circle", "colour": colour, "cfg": 2.0}
        pictures, _ = draw_pictures(network, 4, seed=0, steps=15, **asked)
        scores = torch.stack([ColourReward("hue", hue)(pictures).mean() for hue in HUES])
        assert COLOURS[int(scores.argmax())] == colour


def test_cfg_combines_the_two_branches(network: torch.nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    sigma = torch.full((2,), 1.5)
    asked, nothing = labels_to_context("ring", "red"), labels_to_context(None, None)
    with torch.no_grad():
        cond = DemoDenoiser(network, asked)(x, sigma)
        uncond = DemoDenoiser(network, nothing)(x, sigma)
        both = DemoDenoiser(network, asked, cfg=3.0)(x, sigma)
    torch.testing.assert_close(both, uncond + 3 * (cond - uncond), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_same_seed_same_pictures_and_a_higher_score(network: torch.nn.Module, mode: str) -> None:
    reward = ColourReward("hue", 240.0)
    options = {"seed": 5, "steps": 12, "method": preset(mode), "weight": Weight.of(reward, 60.0)}
    first, trace = draw_pictures(network, 8, **options)
    again, _ = draw_pictures(network, 8, **options)
    plain, empty = draw_pictures(network, 8, seed=5, steps=12)
    assert torch.equal(first, again)
    assert len(trace.records) == 12 and not empty.records
    assert reward(first).mean() > reward(plain).mean()
