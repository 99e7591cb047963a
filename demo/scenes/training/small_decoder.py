"""Stage 4: the small decoder and the linear map to colours, on the finished VAE's latents."""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compose import draw, random_labels
from ..diffusion import LATENT_RGB_FILE, SMALL_DECODER_FILE, load_vae
from ..small_decoder import small_decoder
from ..vae import FACTOR, SceneVAE, psnr
from .grids import save_grid
from .sprites import load_sprites
from .trainer import Plan, Trainer, save_half
from .vae import held_out_scenes, reconstruction_loss


def latent_to_rgb(latents: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares: factors [4, 3] and bias [3] from a cell to the mean colour of its pixels.

    Colours are in -1..1, as ComfyUI's latent_rgb_factors have them.
    """
    colours = 2 * F.avg_pool2d(images, FACTOR).permute(0, 2, 3, 1).reshape(-1, 3) - 1
    cells = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    design = torch.cat([cells, cells.new_ones(len(cells), 1)], dim=1)
    solution = torch.linalg.lstsq(design.double(), colours.double()).solution.float()
    return solution[:-1], solution[-1]


@torch.no_grad()
def report(vae: SceneVAE, decoder: nn.Module, options: argparse.Namespace, sprites: Tensor) -> str:
    """PSNR of small decoder and linear map on held-out scenes; writes the map and a grid."""
    images, _ = held_out_scenes(sprites, 64)
    latents = torch.cat([vae.encode(part) for part in images.split(16)])
    decoded = decoder(latents)
    factors, bias = latent_to_rgb(latents, images)
    linear = torch.einsum("bchw,cr->brhw", latents, factors) + bias.view(3, 1, 1)
    small = F.avg_pool2d(images, FACTOR)
    save_grid(decoded[:32], options.cache / "small_decoder" / "decoded.png", columns=8)
    table = {"factors": factors.tolist(), "bias": bias.tolist()}
    (options.cache / LATENT_RGB_FILE).write_text(json.dumps(table))
    return (
        f"small decoder {psnr(decoded, images).mean():.2f} dB, "
        f"latent to RGB {psnr((linear + 1) / 2, small).mean():.2f} dB at an eighth of the size"
    )


def main(options: argparse.Namespace) -> None:
    """Train, or go on; then measure and export."""
    sprites = load_sprites(options.cache)
    vae = load_vae(options.cache).to(memory_format=torch.channels_last)
    torch.manual_seed(options.seed)
    decoder = small_decoder().to(memory_format=torch.channels_last)
    plan = Plan(options.steps or 4000, options.rate or 1e-3, edges=("1.",))
    trainer = Trainer(decoder, plan, options.cache / "small_decoder", options.seed)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = draw(random_labels(6, generator), sprites, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(images)
            decoded = decoder(latents)
        return reconstruction_loss(decoded.float(), images), {}

    if not options.report:
        trainer.run(loss)
    save_half(trainer.averaged.state_dict(), options.cache / SMALL_DECODER_FILE)
    print(f"step {trainer.step}: {report(vae, trainer.averaged, options, sprites)}")
