"""The perceptual weight's files, and what it makes of sizes and of several references."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lags_pack.rewards import PerceptualReward, perceptual
from lags_pack.rewards.checkpoint import CheckpointError
from lags_pack.rewards.perceptual import Heads, perceptual_encoder, perceptual_heads
from lags_pack.tests import reward_files
from lags_pack.tests.reward_files import Shapes
from lags_pack.tests.reward_table import pictures

FLOAT = torch.float32
# What PyTorch's page and torchvision's source say of the published networks.
PUBLISHED: dict[str, tuple[Shapes, tuple[int, ...], tuple[int, ...]]] = {
    # shapes, channels, sides of the layers at 256 pixels
    "VGG16": (reward_files.vgg16_shapes(), (64, 128, 256, 512, 512), (256, 128, 64, 32, 16)),
    "AlexNet": (reward_files.alexnet_shapes(), (64, 192, 384, 256, 256), (63, 31, 15, 15, 15)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At their size; the classifier is left where it is."""
    shapes, channels, sides = PUBLISHED[name]
    weights = {key: torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}
    monkeypatch.setattr(perceptual, "read_weights", lambda path: weights)
    encoder = perceptual_encoder(Path("file.pth"), torch.bfloat16)
    assert encoder.channels == channels and encoder.preprocessing.size == 256
    assert encoder.sizes == tuple(
        count * side**2 for count, side in zip(channels, sides, strict=True)
    )
    mine = {key: shape for key, shape in shapes.items() if key.startswith("features.")}
    found = {key: tuple(value.shape) for key, value in encoder.net.state_dict().items()}
    assert found == mine


Make = Callable[[Path], Path]


def other(*keys: str) -> Make:
    """A file with these keys of convolutions."""

    def make(folder: Path) -> Path:
        weights = {f"{key}.weight": torch.ones(2, 2, 3, 3) for key in keys}
        torch.save(weights, folder / "other.pth")
        return folder / "other.pth"

    return make


def features(*numbers: int) -> Make:
    return other(*(f"features.{number}" for number in numbers))


VGG19 = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
VGG16_BN = (0, 1, 3, 4, 7, 8, 10, 11, 14, 15, 17, 18, 20, 21, 24, 25, 27, 28, 30, 31)
NEAR: dict[str, tuple[Make, str]] = {
    "VGG19": (features(*VGG19), "is another network of torchvision or timm; expected"),
    "VGG16 with batch norms": (features(*VGG16_BN), "is another network of torchvision"),
    "VGG11": (features(0, 3, 6, 8, 11, 13, 16, 18), "is another network of torchvision"),
    "ResNet": (other("conv1", "layer1.0.conv1"), "is of an unknown kind; expected"),
    "heads": (reward_files.lpips, "is LPIPS's heads; expected.*belong to.*perceptual, as heads"),
    "CLIP": (reward_files.clip_vision, "is the image side of a CLIP; expected"),
}


@pytest.mark.parametrize("name", NEAR)
def test_another_network_is_refused(name: str, tmp_path: Path) -> None:
    make, said = NEAR[name]
    remedy = "|VGG16 or AlexNet, such as model.safetensors of https://huggingface.co/timm/vgg16"
    with pytest.raises(CheckpointError, match=said) as caught:
        perceptual_encoder(make(tmp_path), FLOAT)
    assert remedy.strip("|") in str(caught.value)


def test_heads_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a VGG16; expected LPIPS's heads.*Perceptual"):
        perceptual_heads(reward_files.vgg16(tmp_path))
    path = reward_files.lpips(tmp_path)
    weights = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in weights.items() if "lin2" not in k}, path)
    with pytest.raises(CheckpointError, match="missing: lin2.model.1.weight"):
        perceptual_heads(path)
    torch.save(weights | {"lin1.model.1.weight": torch.full((1, 5, 1, 1), math.nan)}, path)
    with pytest.raises(CheckpointError, match="not finite"):
        perceptual_heads(path)


@pytest.mark.parametrize("channels", [(64, 192, 384, 256, 256), (4, 5, 6, 7, 7, 8, 8)])
def test_heads_of_another_network_are_refused(channels: tuple[int, ...], tmp_path: Path) -> None:
    """AlexNet's, and a SqueezeNet's of seven layers."""
    encoder = perceptual_encoder(reward_files.vgg16(tmp_path), FLOAT, 32)
    heads = perceptual_heads(reward_files.lpips(tmp_path, channels))
    assert heads.channels == channels
    with pytest.raises(CheckpointError, match=r"layers of \(.*this network's have \(4, 5.*vgg.pth"):
        PerceptualReward(encoder, pictures(1), heads)


def test_heads_of_ones_are_no_heads(tmp_path: Path) -> None:
    encoder = perceptual_encoder(reward_files.vgg16(tmp_path), FLOAT, 32)
    plain = PerceptualReward(encoder, pictures(1))
    ones = PerceptualReward(encoder, pictures(1), Heads(encoder.channels))
    assert torch.equal(plain(pictures(3)), ones(pictures(3)))


def test_an_image_of_another_size_and_shape_is_compared_whole(tmp_path: Path) -> None:
    """Corner to corner, nothing cut off: the same image, made larger one way, stays near it."""
    encoder = perceptual_encoder(reward_files.vgg16(tmp_path), FLOAT, 32)
    small = pictures(1, 4, 4)
    wide, tall = (
        torch.nn.functional.interpolate(small, size, mode="bicubic").clamp(0, 1)
        for size in ((64, 128), (128, 64))
    )
    reward = PerceptualReward(encoder, wide)
    assert reward(tall) > -1e-3 > -0.01 > reward(wide.flip(3))
    assert reward(tall) > 20 * reward(wide.flip(3))


def test_several_references_count_as_their_mean(tmp_path: Path) -> None:
    encoder, images = perceptual_encoder(reward_files.vgg16(tmp_path), FLOAT, 32), pictures(3)
    alone = [PerceptualReward(encoder, images[i : i + 1])(images[2:]) for i in (0, 1)]
    both = PerceptualReward(encoder, images[:2])
    # |f - m|^2 is the mean of the two |f - f_i|^2 less what the references differ, at any f.
    differ = both(images[:1])
    torch.testing.assert_close(both(images[2:]), sum(alone) / 2 - differ)
    torch.testing.assert_close(both(images[1:2]), differ)
