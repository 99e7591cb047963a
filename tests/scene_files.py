"""The text-to-image model and its scorers, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lags_pack.benchmarks._judge import Judge, Real, real_scenes
from lags_pack.benchmarks._scenes import Scenes
from lags_pack.demo.scenes.diffusion import (
    LATENT_RGB_FILE,
    SMALL_DECODER_FILE,
    VAE_FILE,
    split_weights,
)
from lags_pack.demo.scenes.small_decoder import small_decoder
from lags_pack.demo.scenes.subjects import WORDS
from lags_pack.demo.scenes.text import SceneTextEncoder
from lags_pack.demo.scenes.training.clip_files import clip_model, write_folder
from lags_pack.demo.scenes.training.trainer import save_half
from lags_pack.demo.scenes.unet import SceneUNet
from lags_pack.demo.scenes.vae import SceneVAE
from torch import nn


def random_model(place: Path) -> None:
    """The model's three files, with random weights."""
    torch.manual_seed(3)
    unet = SceneUNet()
    for value in unet.parameters():
        if not value.any():  # layers that begin at zero
            nn.init.normal_(value, std=0.02)
    save_half(SceneVAE().state_dict(), place / VAE_FILE)
    for file, weights in split_weights(unet, SceneTextEncoder()).items():
        save_half(weights, place / file)


def random_scenes(place: Path) -> Scenes:
    """The model's files, those of its small decoders, and the scorers' folders."""
    random_model(place)
    save_half(small_decoder().state_dict(), place / SMALL_DECODER_FILE)
    table = {"factors": torch.rand(4, 3).tolist(), "bias": [0.1, 0.2, 0.3]}
    (place / LATENT_RGB_FILE).write_text(json.dumps(table), encoding="utf-8")
    for name in ("scenes_clip", "scenes_pickscore"):
        write_folder(clip_model(), place / name)
    return Scenes(place, place)


def random_judge() -> tuple[Judge, Real]:
    """A judge of random weights, and what it says of scenes of noise."""
    torch.manual_seed(5)
    judge = Judge().eval().requires_grad_(False)
    sprites = torch.rand(len(WORDS), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return judge, real_scenes(judge, sprites, 256)
