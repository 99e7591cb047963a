"""Perceptual likeness to an image: LPIPS, by the layers of a VGG16 or an AlexNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import CheckpointError, Weights, fill, read_weights, shape_of
from .encoders import EncoderReward, ImageEncoder
from .layouts import ALEXNET, LPIPS, VGG16, expect, head_key
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SIDE = 256  # pixels, of the square that both images become; any size would do
PAGE = "https://github.com/richzhang/PerceptualSimilarity"
VGG16_PAGE = "https://huggingface.co/timm/vgg16.tv_in1k"
EXPECTED = f"torchvision's VGG16 or AlexNet, such as model.safetensors of {VGG16_PAGE}"


@dataclass(frozen=True)
class Architecture:
    """A network of torchvision, by the numbers of its layers; all others are ReLUs.

    Attributes:
        convolutions: number -> kernel, stride, padding.
        pools: numbers of the poolings before the last layer that counts.
        pool: their kernel; they go by steps of 2.
        layers: the ReLUs that LPIPS compares.
    """

    convolutions: dict[int, tuple[int, int, int]]
    pools: tuple[int, ...]
    pool: int
    layers: tuple[int, ...]


ARCHITECTURES = {
    VGG16: Architecture(
        dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (3, 1, 1)),
        *((4, 9, 16, 23), 2, (3, 8, 15, 22, 29)),
    ),
    ALEXNET: Architecture(
        {0: (11, 4, 2), 3: (5, 1, 2), 6: (3, 1, 1), 8: (3, 1, 1), 10: (3, 1, 1)},
        *((2, 5), 3, (1, 4, 7, 9, 11)),
    ),
}


class Backbone(nn.Module):
    """The convolutions of a network, for what LPIPS compares.

    Args:
        kind: of network.
        widths: channels of each convolution, by its number.

    Attributes:
        channels: of each layer that is compared.
    """

    def __init__(self, kind: Architecture, widths: dict[int, int]) -> None:
        super().__init__()
        self.layers = kind.layers
        before, parts = 3, OrderedDict[str, nn.Module]()
        for number in range(kind.layers[-1] + 1):
            part: nn.Module = nn.ReLU()
            if number in kind.convolutions:
                part = nn.Conv2d(before, widths[number], *kind.convolutions[number])
                before = widths[number]
            elif number in kind.pools:
                part = nn.MaxPool2d(kind.pool, 2)
            parts[str(number)] = part
        self.features = nn.Sequential(parts)
        self.channels = tuple(widths[number - 1] for number in kind.layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, N], float32: of each layer [channels, H, W], of length 1 over the channels."""
        found = []
        for number, part in enumerate(self.features):
            pixels = part(pixels)
            if number in self.layers:
                found.append(F.normalize(pixels.float(), dim=1, eps=1e-10).flatten(1))
        return torch.cat(found, dim=1)


class PerceptualEncoder(ImageEncoder):
    """Images -> the layers that LPIPS compares, one after the other.

    Attributes:
        channels: of each layer.
        sizes: numbers of each layer.
    """

    def __init__(self, net: Backbone, sizes: Sequence[int], side: int) -> None:
        look = Preprocessing(side, fit="squash", mean=IMAGENET_MEAN, std=IMAGENET_STD)
        super().__init__(net, lambda net, pixels: net(pixels), look, sum(sizes))
        self.channels, self.sizes = net.channels, tuple(sizes)


def perceptual_encoder(path: Path, dtype: torch.dtype, side: int = SIDE) -> PerceptualEncoder:
    """The convolutions of a VGG16 or AlexNet; its classifier is not read.

    Args:
        path: a state dict of torchvision or timm, ``features.0.weight`` and so on.
        dtype: precision of the network; layers are compared in float32.
        side: of the square that images become, in pixels.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    weights = read_weights(path)
    layout = expect(weights, path, tuple(ARCHITECTURES), EXPECTED)
    if layout is None:
        raise CheckpointError(f"{path} is of an unknown kind; expected {EXPECTED}.")
    kind = ARCHITECTURES[layout]
    mine = {key: value for key, value in weights.items() if key.startswith("features.")}
    widths = {
        number: shape_of(mine, f"features.{number}.weight", 4, path)[0]
        for number in kind.convolutions
    }
    with torch.device("meta"):
        net = Backbone(kind, widths)
        sizes, pixels = [], torch.empty(1, 3, side, side)
        for number, part in enumerate(net.features):
            pixels = part(pixels)
            sizes += [pixels.numel()] if number in kind.layers else []
    fill(net, mine, path, dtype)
    return PerceptualEncoder(net, sizes, side)


class Heads(nn.Module):
    """How much each channel of each layer counts.

    Args:
        channels: of each layer.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        ones = (nn.Parameter(torch.ones(count), requires_grad=False) for count in channels)
        self.weights = nn.ParameterList(ones)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each layer."""
        return tuple(len(weight) for weight in self.weights)


def perceptual_heads(path: Path, dtype: torch.dtype = torch.float32) -> Heads:
    """LPIPS's own heads, always in float32.

    Args:
        path: the published file, ``lin0.model.1.weight`` and so on.
        dtype: for the sake of the loader.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    weights = read_weights(path)
    expect(weights, path, (LPIPS,), f"LPIPS's heads, such as vgg.pth of {PAGE}")
    mine: Weights = {}
    for number in range(7 if head_key(6) in weights else 5):  # seven are for a SqueezeNet
        shape_of(weights, head_key(number), 4, path)
        mine[f"weights.{number}"] = weights[head_key(number)].flatten()
    with torch.device("meta"):
        heads = Heads([len(weight) for weight in mine.values()])
    fill(heads, mine, path, torch.float32)
    return heads


class PerceptualReward(EncoderReward):
    """Minus LPIPS: the distance of an image's layers to a reference's.

    In each layer the channels' vector at each place has length 1; its squared differences, each
    times its channel's weight, are summed over the channels and averaged over the places. Both
    images are resized to one square.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    CVPR 2018 (arXiv 1801.03924).

    Args:
        encoder: of images.
        reference: [N, 3, H, W]; several count as the mean of their layers.
        heads: None for weights of 1, the paper's network without training for the comparison.

    Raises:
        CheckpointError: the heads belong to another network.
    """

    name = "perceptual"
    scale = "minus LPIPS, 0 at best, below -0.5 for unrelated images; 0 to -10 with unit weights"
    working_range = (1.0, 500.0)
    default_strength = 50.0
    strength_source = "none published; automatic is better"

    def __init__(
        self, encoder: PerceptualEncoder, reference: Tensor, heads: Heads | None = None
    ) -> None:
        heads = Heads(encoder.channels).eval() if heads is None else heads
        if heads.channels != encoder.channels:
            raise CheckpointError(
                f"The heads are for layers of {heads.channels} channels and this network's have "
                f"{encoder.channels}: choose those of the same network (vgg.pth for VGG16, "
                f"alex.pth for AlexNet, of {PAGE}), or unit weights."
            )
        super().__init__(encoder, heads)
        self.heads, self.sizes = heads, encoder.sizes
        with torch.no_grad():
            self.target = encoder(reference).mean(dim=0, keepdim=True).cpu()

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        found = self.encoder(images)
        squares = (found - self.target.to(found.device)).square().split(self.sizes, dim=1)
        layers = (
            layer.unflatten(1, (len(weight), -1)).mean(dim=2) @ weight.to(layer.device)
            for layer, weight in zip(squares, self.heads.weights, strict=True)
        )
        return -torch.stack(list(layers)).sum(dim=0)
