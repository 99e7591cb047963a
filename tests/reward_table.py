"""One reward of every kind: the networks small and random, loaded by the real code from files.

Shared by the tests that run over all rewards, as `lags_pack.tests.reward_table`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from lags_pack import rewards
from lags_pack.rewards import (
    Reward,
    aesthetic,
    classifier,
    clip,
    hps,
    image_reward,
    perceptual,
    reference,
    siglip,
)
from lags_pack.rewards.colour import ATTRIBUTES
from lags_pack.tests import reward_files
from torch import Tensor

PROMPT = "a red cat"
Maker = Callable[[Path, torch.dtype], Reward]  # from a folder to write into, and a precision
Reader = Callable[[str], Reward]  # from a prompt, with the networks loaded already


@functools.cache
def _drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, height: int = 16, width: int = 16, seed: int = 1) -> Tensor:
    return _drawn(count, 3, height, width, seed=seed).clone()


def mild(count: int, height: int = 16, width: int = 16, seed: int = 1) -> Tensor:
    """Noise in 0.3..0.7: even where a resize overshoots, none of its pixels is clamped."""
    return 0.3 + 0.4 * pictures(count, height, width, seed)


def gradient(reward: Reward, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(reward(leaf).sum(), leaf)
    return grad


# ---- with a network -------------------------------------------------------------------------


def pick_score(folder: Path, dtype: torch.dtype) -> Reader:
    path = reward_files.pickscore(folder)
    eye, read = clip.image_encoder(path, dtype), clip.text_encoder(path, dtype)
    return lambda prompt: rewards.PickScore(eye, read(prompt))


def clip_score(folder: Path, dtype: torch.dtype) -> Reader:
    path = reward_files.clip_folder(folder / "clip", seed=7)
    eye, read = clip.image_encoder(path, dtype), clip.text_encoder(path, dtype)
    return lambda prompt: rewards.ClipScore(eye, read(prompt))


def hps_v2(folder: Path, dtype: torch.dtype) -> Reader:
    path = reward_files.hps(folder / "hps", "2", seed=8)
    eye, read = hps.hps_encoder(path, dtype), clip.text_encoder(path, dtype)
    return lambda prompt: rewards.HPSv2(eye, read(prompt))


def hps_v21(folder: Path, dtype: torch.dtype) -> Reader:
    path = reward_files.hps(folder / "hps21")
    eye, read = hps.hps_encoder(path, dtype), clip.text_encoder(path, dtype)
    return lambda prompt: rewards.HPSv21(eye, read(prompt))


def image_reward_of(folder: Path, dtype: torch.dtype) -> Reader:
    path = reward_files.image_reward(folder)
    model = image_reward.image_reward_model(path, dtype)
    return lambda prompt: rewards.ImageReward(model, path.parent / "vocab.txt", prompt)


READERS: dict[str, Callable[[Path, torch.dtype], Reader]] = {
    "PickScore": pick_score,
    "CLIP score": clip_score,
    "HPSv2": hps_v2,
    "HPSv2.1": hps_v21,
    "ImageReward": image_reward_of,
}


def reading(name: str) -> Maker:
    return lambda folder, dtype: READERS[name](folder, dtype)(PROMPT)


def aesthetic_of(folder: Path, dtype: torch.dtype) -> Reward:
    encoder = clip.image_encoder(reward_files.clip_vision(folder / "vision"), dtype)
    return rewards.Aesthetic(encoder, aesthetic.aesthetic_head(reward_files.aesthetic(folder)))


def aesthetic_25(folder: Path, dtype: torch.dtype) -> Reward:
    encoder = siglip.siglip_encoder(reward_files.siglip(folder), dtype)
    return rewards.Aesthetic(encoder, aesthetic.aesthetic_head(reward_files.aesthetic_25(folder)))


def tiny_classifier(folder: Path, dtype: torch.dtype) -> classifier.Classifier:
    return classifier.classifier(reward_files.classifier(folder), dtype)


def reference_of(encoder: reference.ImageEncoder) -> Reward:
    return rewards.ReferenceReward(
        encoder, reference.reference_features(encoder, pictures(1, 48, 48, seed=9))
    )


def style(folder: Path, dtype: torch.dtype) -> Reward:
    encoder = clip.early_layers(reward_files.clip_vision(folder / "vision"), dtype)
    return rewards.StyleReward(encoder, pictures(1, 48, 48, seed=9))


def perceptual_vgg(folder: Path, dtype: torch.dtype) -> Reward:
    encoder = perceptual.perceptual_encoder(reward_files.vgg16(folder), dtype, 64)
    heads = perceptual.perceptual_heads(reward_files.lpips(folder))
    return rewards.PerceptualReward(encoder, pictures(1, 48, 48, seed=9), heads)


def perceptual_alexnet(folder: Path, dtype: torch.dtype) -> Reward:
    encoder = perceptual.perceptual_encoder(reward_files.alexnet(folder), dtype, 64)
    return rewards.PerceptualReward(encoder, pictures(2, 48, 48, seed=9))


def disc(height: int = 24, width: int = 24) -> Tensor:
    """A soft-edged round mask, off the middle."""
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return (4 * (0.8 - ((rows - 0.2) ** 2 + (columns + 0.1) ** 2).sqrt())).clamp(0, 1)


NETWORKS: dict[str, Maker] = {
    **{name: reading(name) for name in READERS},
    "aesthetic": aesthetic_of,
    "aesthetic 2.5": aesthetic_25,
    "class": lambda *at: rewards.ClassReward(tiny_classifier(*at), [0, 2]),
    "not class": lambda *at: rewards.ClassReward(tiny_classifier(*at), [1], away=True),
    "balance": lambda *at: rewards.BalanceReward(tiny_classifier(*at), [0, 3], [0.9, 0.1]),
    "CLIP reference": lambda folder, dtype: reference_of(
        reference.reference_encoder(reward_files.clip_vision(folder / "vision"), dtype)
    ),
    "DINOv2 reference": lambda folder, dtype: reference_of(
        reference.reference_encoder(reward_files.dinov2(folder), dtype)
    ),
    "SigLIP reference": lambda folder, dtype: reference_of(
        reference.reference_encoder(reward_files.siglip(folder), dtype)
    ),
    "style": style,
    "VGG16": perceptual_vgg,
    "AlexNet": perceptual_alexnet,
    "masked PickScore": lambda *at: rewards.MaskedReward(reading("PickScore")(*at), disc()),
}

# ReLUs and the largest of a pool: a long step, or rounding, ends on another side of their kinks.
KINKED = ("VGG16", "AlexNet")

# ---- without --------------------------------------------------------------------------------

FORMULAS: dict[str, Reward] = {
    **{name: rewards.ColourReward(name, hue=40.0, colour="#2060ff") for name in ATTRIBUTES},
    "low band": rewards.FrequencyReward(0.1, 0.25),
    "high band": rewards.FrequencyReward(0.25, 0.71),
    "sharpness": rewards.SharpnessReward(),
    "left-right": rewards.SymmetryReward("left-right"),
    "top-bottom": rewards.SymmetryReward("top-bottom"),
    "function": rewards.FunctionReward(lambda images: images[:, 0].mean(dim=(1, 2))),
    "masked saturation": rewards.MaskedReward(rewards.ColourReward("saturation"), disc()),
}
BLACK_BOXES: dict[str, Reward] = {
    "JPEG size": rewards.JpegSizeReward(),
    "masked JPEG size": rewards.MaskedReward(rewards.JpegSizeReward(), disc()),
}
DIFFERENTIABLE = (*NETWORKS, *FORMULAS)
EVERY = (*DIFFERENTIABLE, *BLACK_BOXES)


def every_reward(folder: Path) -> dict[str, Reward]:
    """All of them by name, the networks in float32."""
    built = {name: make(folder, torch.float32) for name, make in NETWORKS.items()}
    return built | FORMULAS | BLACK_BOXES
