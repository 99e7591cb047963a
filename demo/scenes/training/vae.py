"""Stage 1: the VAE, on scenes drawn as training goes."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compose import Labels, draw, random_labels
from ..vae import SceneVAE, psnr
from .grids import save_grid
from .sprites import load_sprites
from .trainer import Plan, Trainer

KL_WEIGHT = 1.5e-4  # per latent number, beside the mean error per pixel value
EDGE_WEIGHT = 1.0
EDGES = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")
CANDIDATES = 3  # places for a crop; the one with the most detail is taken
CROP = 64  # most of the training sees quarters of scenes: four times as many scenes


def reconstruction_loss(images: Tensor, truth: Tensor) -> Tensor:
    """Charbonnier's error of pixels, and the absolute error of differences of neighbours."""
    error = ((images - truth) ** 2 + 1e-4).sqrt().mean()
    edges = sum((images.diff(dim=axis) - truth.diff(dim=axis)).abs().mean() for axis in (2, 3))
    return error + EDGE_WEIGHT * edges


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """To the standard normal, per latent number."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


def drawn(sprites: Tensor, generator: torch.Generator, whole: bool) -> Tensor:
    """A batch of new scenes: two whole ones, or a crop of each of six."""
    images = draw(random_labels(2 if whole else 6, generator), sprites, generator)
    return images if whole else random_crop(images, CROP, generator)


def random_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Of three random squares in each image the one with the most detail."""
    room = images.shape[-1] - size + 1
    parts = []
    for image in images:
        corners = torch.randint(room, (CANDIDATES, 2), generator=generator).tolist()
        squares = [image[:, y : y + size, x : x + size] for y, x in corners]
        parts.append(max(squares, key=lambda square: square.diff(dim=-1).abs().sum().item()))
    return torch.stack(parts)


def vae_loss(
    vae: SceneVAE, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction through a drawn latent, and the KL divergence."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, log_variance = vae.moments(images)
        mean, log_variance = mean.float(), log_variance.float()
        noise = torch.randn(mean.shape, generator=generator)
        z = mean + (0.5 * log_variance).exp() * noise
        decoded = vae.decode(z)
    decoded = decoded.float()
    kl = kl_divergence(mean, log_variance)
    loss = reconstruction_loss(decoded, images) + KL_WEIGHT * kl
    squared = F.mse_loss(decoded.detach(), images).item()
    return loss, {"mse": squared, "kl": kl.item(), "std": mean.std().item()}


def held_out_scenes(sprites: Tensor, count: int, seed: int = 7) -> tuple[Tensor, Labels]:
    """Scenes with combinations that training never draws."""
    generator = torch.Generator().manual_seed(seed)
    labels = random_labels(count, generator, held_out=True)
    return draw(labels, sprites, generator), labels


@torch.inference_mode()
def report(vae: SceneVAE, sprites: Tensor, path: Path, count: int = 64) -> float:
    """PSNR on held-out scenes; writes scenes and their round trips as one image."""
    images, _ = held_out_scenes(sprites, count)
    decoded = torch.cat([vae.decode(vae.encode(part)) for part in images.split(16)])
    pairs = torch.stack([images[:32], decoded[:32]], dim=1).flatten(0, 1)
    save_grid(pairs, path, columns=8)
    return psnr(decoded, images).mean().item()


def main(options: argparse.Namespace) -> None:
    """Train, or go on; then print the PSNR."""
    sprites = load_sprites(options.cache)
    torch.manual_seed(options.seed)
    vae = SceneVAE().to(memory_format=torch.channels_last)
    plan = Plan(options.steps or 6000, options.rate or 1e-3, edges=EDGES)
    trainer = Trainer(vae, plan, options.cache / "vae", options.seed)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = drawn(sprites, generator, whole=step >= 0.9 * plan.steps)
        return vae_loss(vae, images, generator)

    if not options.report:
        trainer.run(loss)
    value = report(trainer.averaged, sprites, options.cache / "vae" / "round_trip.png")
    print(f"step {trainer.step}: PSNR {value:.2f} dB on held-out scenes")
