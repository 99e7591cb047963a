"""The demo's diffusion model: a UNet of a few hundred thousand weights, and its denoisers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import COLOURS, SHAPES, SIZE
from .weights import read_weights

LABELS = len(SHAPES) + len(COLOURS)
PIXEL_SCALE = 2.0  # model space = PIXEL_SCALE * (2 * image - 1); gives the data unit variance
SIGMA_DATA = 1.0
SIGMA_MIN, SIGMA_MAX = 0.03, 15.0
WEIGHTS = Path(__file__).parent / "shapes.safetensors"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with the noise and label embedding as scale and shift between them."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Attention over all positions, added to its input."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, -1, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(dim=1)
        scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
        h = scores.softmax(dim=-1).to(v.dtype) @ v  # 64 positions: faster than a fused kernel
        return x + self.out(h.transpose(2, 3).reshape(batch, channels, height, width))


class DemoUNet(nn.Module):
    """Two-level UNet on 2x2 pixel blocks; called the way ComfyUI calls a diffusion model."""

    def __init__(self, channels: Sequence[int] = (48, 96), embedding: int = 160) -> None:
        super().__init__()
        wide, deep = channels
        self.noise_frequencies: Tensor
        self.register_buffer("noise_frequencies", torch.exp(torch.linspace(-1.0, 4.0, 32)))
        self.embed_noise = nn.Linear(64, embedding)
        self.embed_labels = nn.Linear(LABELS, embedding, bias=False)
        self.embed = nn.Linear(embedding, embedding)

        self.stem = nn.Conv2d(12, wide, 3, padding=1)
        self.down1 = ResidualBlock(wide, wide, embedding)
        self.down2 = ResidualBlock(wide, wide, embedding)
        self.shrink = nn.Conv2d(wide, deep, 3, stride=2, padding=1)
        self.middle1 = ResidualBlock(deep, deep, embedding)
        self.attention1 = SelfAttention(deep)
        self.middle2 = ResidualBlock(deep, deep, embedding)
        self.attention2 = SelfAttention(deep)
        self.middle3 = ResidualBlock(deep, deep, embedding)
        self.grow = nn.Conv2d(deep, wide, 3, padding=1)
        self.up1 = ResidualBlock(2 * wide, wide, embedding)
        self.up2 = ResidualBlock(2 * wide, wide, embedding)
        self.norm = nn.GroupNorm(8, wide)
        self.head = nn.Conv2d(wide, 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; ComfyUI asks for it."""
        return self.stem.weight.dtype

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: object) -> Tensor:
        """Network output for scaled noisy images.

        Args:
            x: [B, 3, 32, 32] noisy images divided by sqrt(sigma^2 + 1).
            timesteps: [B], 0.25 ln sigma.
            context: [B, 1, labels], one where a label is asked for, zero where it is left open.
        """
        phase = timesteps.float()[:, None] * self.noise_frequencies.float()
        noise = torch.cat([phase.cos(), phase.sin()], dim=1).to(x.dtype)
        labels = context.mean(dim=1).to(x.dtype)
        embedding = self.embed_noise(noise) + self.embed_labels(labels)
        embedding = F.silu(self.embed(F.silu(embedding)))

        level0 = self.stem(F.pixel_unshuffle(x, 2))
        level1 = self.down1(level0, embedding)
        level2 = self.down2(level1, embedding)
        h = self.middle1(self.shrink(level2), embedding)
        h = self.middle2(self.attention1(h), embedding)
        h = self.middle3(self.attention2(h), embedding)
        h = self.grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up1(torch.cat([h, level2], dim=1), embedding)
        h = self.up2(torch.cat([h, level1], dim=1), embedding)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), 2)


def labels_to_context(shape: str | None, colour: str | None) -> Tensor:
    """Conditioning of one image: [1, 1, labels]; None leaves the label open.

    Raises:
        ValueError: a name that is not in ``SHAPES`` or ``COLOURS``.
    """
    context = torch.zeros(1, 1, LABELS)
    for name, names, start in ((shape, SHAPES, 0), (colour, COLOURS, len(SHAPES))):
        if name is None:
            continue
        if name not in names:
            raise ValueError(f"{name!r} is not known to the demo model: choose from {names}.")
        context[0, 0, start + names.index(name)] = 1
    return context


def precondition(network: nn.Module, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
    """Denoised estimate D(x, sigma) of a network in EDM's parametrisation.

    Source: Karras et al. 2022, eq. 7, with sigma_data = 1.

    Args:
        network: the UNet.
        x: [B, 3, 32, 32] noisy images in model space.
        sigma: [B] noise level, variance-exploding units.
        context: [B, 1, labels].
    """
    s = sigma.view(-1, 1, 1, 1)
    norm = (s**2 + SIGMA_DATA**2).sqrt()
    output = network(x / norm, 0.25 * sigma.log(), context)
    return x * (SIGMA_DATA / norm) ** 2 + output * (s * SIGMA_DATA / norm)


class DemoDenoiser:
    """The demo model as a plain denoiser, (x, sigma) -> denoised, with classifier-free guidance.

    Args:
        network: the UNet, as ``load_network`` returns it.
        context: [1 or B, 1, labels] what is asked for.
        cfg: guidance scale; 1 evaluates the conditional branch alone.
    """

    def __init__(self, network: nn.Module, context: Tensor, cfg: float = 1.0) -> None:
        self.network, self.context, self.cfg = network, context, cfg

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        context = self.context.expand(x.shape[0], -1, -1)
        if self.cfg == 1.0:
            return precondition(self.network, x, sigma, context)
        both = torch.cat([context, torch.zeros_like(context)])
        denoised = precondition(self.network, x.repeat(2, 1, 1, 1), sigma.repeat(2), both)
        self._cond, uncond = denoised.chunk(2)
        self._combined = uncond + self.cfg * (self._cond - uncond)
        return self._combined

    def conditional(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The last call's output, moved as the conditional branch moves from its x to this one."""
        cond = precondition(self.network, x, sigma, self.context.expand(x.shape[0], -1, -1))
        return cond if self.cfg == 1.0 else self._combined + cond - self._cond


def load_network(path: Path = WEIGHTS) -> DemoUNet:
    """The trained UNet in float32, in evaluation mode, without gradients."""
    network = DemoUNet()
    network.load_state_dict(read_weights(path))
    return network.eval().requires_grad_(False)


def to_images(denoised: Tensor) -> Tensor:
    """Model space [B, 3, H, W] -> images in 0..1 (values outside stay outside)."""
    return (denoised / PIXEL_SCALE + 1) / 2


def empty_shape(count: int) -> tuple[int, int, int, int]:
    """The shape of ``count`` latents."""
    return (count, 3, SIZE, SIZE)
