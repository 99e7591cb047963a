"""The scene model inside ComfyUI: its files load into ComfyUI's own classes, which agree."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from lags_pack.demo.scenes.diffusion import (
    SceneDenoiser,
    encode_prompts,
    load_text_encoder,
    load_unet,
    load_vae,
    training_sigmas,
)
from lags_pack.demo.scenes.text import TOKENS
from lags_pack.runtime import scene_model
from lags_pack.tests.scene_files import random_model
from torch import Tensor

import nodes

PROMPT = "a cat and a balloon, blue background"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's three files, with random weights."""
    place = tmp_path_factory.mktemp("scenes")
    random_model(place)
    return place


def latents(batch: int = 2, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(16, 16), (12, 24)])
def test_the_denoiser_is_comfyuis(folder: Path, size: tuple[int, int]) -> None:
    model, clip = scene_model.load_model(folder), scene_model.load_clip(folder)
    context = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))[0][0]
    ours = encode_prompts(load_text_encoder(folder), [PROMPT])
    assert torch.allclose(context, ours, atol=1e-5)
    x, sigma = 5 * latents(2, *size), torch.tensor([0.3, 7.0])
    theirs = model.model.apply_model(x, sigma, c_crossattn=context.expand(2, -1, -1))
    denoiser = SceneDenoiser(load_unet(folder), ours, ours, cfg=1.0)
    assert torch.allclose(theirs, denoiser(x, sigma), atol=2e-3)


def test_noise_levels_are_stable_diffusions(folder: Path) -> None:
    sampling = scene_model.load_model(folder).get_model_object("model_sampling")
    assert torch.allclose(sampling.sigmas.cpu(), training_sigmas(), rtol=1e-4)


def test_the_vae_is_comfyuis(folder: Path) -> None:
    vae, ours = scene_model.load_vae(folder), load_vae(folder)
    images = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    encoded = vae.encode(images)
    assert encoded.shape == (2, 4, 16, 16)
    assert torch.allclose(encoded, ours.encode(images.movedim(3, 1)), atol=1e-4)
    decoded = ours.decode(encoded).clamp(0, 1).movedim(1, 3)
    assert torch.allclose(vae.decode(encoded), decoded, atol=1e-3)
    assert vae.spacial_compression_decode() == 8


def test_stock_nodes_make_an_image(folder: Path) -> None:
    """CLIP Text Encode, KSampler and VAE Decode, as a user's graph calls them."""
    model, clip = scene_model.load_model(folder), scene_model.load_clip(folder)
    encode = nodes.CLIPTextEncode().encode
    (positive,), (negative,) = encode(clip, f"(cat:1.3), {PROMPT}"), encode(clip, "")
    latent = scene_model.empty_latent(2)
    arguments = (1, 3, 3.0, "euler", "karras", positive, negative, latent)
    (sampled,) = nodes.KSampler().sample(model, *arguments)
    (images,) = nodes.VAEDecode().decode(scene_model.load_vae(folder), sampled)
    assert images.shape == (2, 128, 128, 3) and images.isfinite().all()


def test_weights_of_words_and_long_prompts(folder: Path) -> None:
    clip = scene_model.load_clip(folder)
    assert clip.encode("cat").shape == (1, TOKENS, 96)
    assert clip.encode("cat " * 30).shape == (1, 2 * TOKENS, 96)
    plain, heavy = clip.encode("a cat on red"), clip.encode("a (cat:1.5) on red")
    changed = (plain != heavy).any(2)[0].nonzero().flatten().tolist()
    assert changed == [2]


def test_unknown_words_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = scene_model.load_clip(folder)
    with caplog.at_level(logging.WARNING):
        clip.tokenize("a zebra and a cat, masterpiece")
    assert "'zebra', 'masterpiece'" in caplog.text
