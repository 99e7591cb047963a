"""Stage 1b: the VAE's decoder alone, further, on the latents of the finished encoder.

Encoded scenes and a UNet trained on them stay valid: only the decoder's weights change.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion import VAE_FILE, load_vae
from ..vae import SceneVAE
from .sprites import load_sprites
from .trainer import Plan, Trainer, save_half
from .vae import EDGES, drawn, reconstruction_loss, report


def decoder_loss(
    vae: SceneVAE, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction through a drawn latent of the frozen encoder."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            mean, log_variance = (part.float() for part in vae.moments(images))
            noise = torch.randn(mean.shape, generator=generator)
            z = mean + (0.5 * log_variance).exp() * noise
        decoded = vae.decode(z)
    decoded = decoded.float()
    squared = F.mse_loss(decoded.detach(), images).item()
    return reconstruction_loss(decoded, images), {"mse": squared}


def main(options: argparse.Namespace) -> None:
    """Train, or go on; then write ``vae.safetensors`` with the averaged decoder."""
    sprites = load_sprites(options.cache)
    vae = load_vae(options.cache).to(memory_format=torch.channels_last)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    torch.manual_seed(options.seed)
    plan = Plan(options.steps or 6000, options.rate or 5e-4, edges=EDGES)
    trainer = Trainer(vae, plan, options.cache / "decoder", options.seed)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = drawn(sprites, generator, whole=step >= 0.8 * plan.steps)
        return decoder_loss(vae, images, generator)

    if not options.report:
        trainer.run(loss)
    assert isinstance(trainer.averaged, SceneVAE)  # noqa: S101
    save_half(trainer.averaged.state_dict(), options.cache / VAE_FILE)
    value = report(trainer.averaged, sprites, options.cache / "decoder" / "round_trip.png")
    print(f"step {trainer.step}: PSNR {value:.2f} dB on held-out scenes")
