"""Stage 3: UNet and text encoder together, on encoded scenes."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from ...sampler import karras_sigmas, sample_ancestral
from ..captions import caption, random_captions
from ..compose import Labels, random_labels
from ..diffusion import (
    TIMESTEPS,
    SceneDenoiser,
    encode_prompts,
    latent_shape,
    load_vae,
    split_weights,
    training_sigmas,
)
from ..text import SceneTextEncoder, tokenize
from ..unet import SceneUNet
from .grids import save_grid
from .latents import Encoded, load_latents
from .trainer import Plan, Trainer, save_half

EDGES = ("unet.input_blocks.0", "unet.out.", "unet.time_embed", "text.words", "text.places")
DROP_PROMPT = 0.12
MOST_SNR = 5.0  # min-SNR weighting (Hang et al. 2023)


class TextToLatents(nn.Module):
    """What is trained together: the UNet and the text encoder."""

    def __init__(self, unet: SceneUNet, text: SceneTextEncoder) -> None:
        super().__init__()
        self.unet, self.text = unet, text


def v_loss(model: TextToLatents, x0: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of v at random timesteps, weighted by min(SNR, 5) / (SNR + 1).

    Source: Salimans and Ho 2022 (v), Hang et al. 2023 (the weight, in its form for v).
    """
    t = torch.randint(TIMESTEPS, (x0.shape[0],), generator=generator)
    sigma = training_sigmas()[t].view(-1, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=generator)
    norm = (sigma**2 + 1).sqrt()
    x, v = (x0 + sigma * noise) / norm, (noise - sigma * x0) / norm
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model.unet(x, t, model.text(tokens))
    snr = sigma.view(-1) ** -2
    weight = snr.clamp(max=MOST_SNR) / (snr + 1)
    error = ((predicted.float() - v) ** 2).mean(dim=(1, 2, 3))
    return (weight * error).mean() / weight.mean()


def batch(data: Encoded, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and the tokens of their captions, some of them dropped."""
    which = torch.randint(len(data.latents), (count,), generator=generator)
    labels = Labels(*(column[which] for column in data.labels))
    tokens = tokenize(random_captions(labels, generator))
    dropped = torch.rand(count, generator=generator) < DROP_PROMPT
    tokens[dropped] = tokenize([""])
    return data.latents[which].float(), tokens


def grid_prompts() -> list[str]:
    """32 prompts to look at: 20 of training's combinations, 12 held out."""
    generator = torch.Generator().manual_seed(11)
    prompts = []
    for count, held_out in ((20, False), (12, True)):
        labels = random_labels(count, generator, held_out)
        prompts += [caption(*row) for row in torch.stack(list(labels), 1).tolist()]
    return prompts


@torch.no_grad()
def sample(
    unet: nn.Module,
    text: nn.Module,
    prompts: list[str],
    cfg: float = 3.0,
    steps: int = 25,
    seed: int = 1,
) -> Tensor:
    """Latents of prompts, by ancestral steps on Karras' noise levels."""
    sigmas = karras_sigmas(steps, 0.03, float(training_sigmas()[-1]))
    generator = torch.Generator().manual_seed(seed)
    x = sigmas[0] * torch.randn(latent_shape(len(prompts)), generator=generator)
    negative = encode_prompts(text, [""])
    denoiser = SceneDenoiser(unet, encode_prompts(text, prompts), negative, cfg)
    return sample_ancestral(denoiser, x, sigmas, generator)


def report(options: argparse.Namespace, trainer: Trainer) -> None:
    """Write a grid of samples at cfg 3, and both models as float16."""
    model = trainer.averaged
    assert isinstance(model, TextToLatents)  # noqa: S101
    vae = load_vae(options.cache)
    latents = sample(model.unet, model.text, grid_prompts())
    images = torch.cat([vae.decode(part) for part in latents.split(8)])
    path = options.cache / "unet" / f"grid_{trainer.step:06d}.png"
    save_grid(images, path, columns=8)
    for file, weights in split_weights(model.unet, model.text).items():
        save_half(weights, options.cache / file)
    print(f"step {trainer.step}: samples in {path.name}", flush=True)


def main(options: argparse.Namespace) -> None:
    """Train, or go on; a grid of samples every 2,000 steps and at the end."""
    torch.manual_seed(options.seed)
    model = TextToLatents(SceneUNet(), SceneTextEncoder())
    model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Plan(options.steps or 40_000, options.rate or 1.5e-3, edges=EDGES)
    trainer = Trainer(model, plan, options.cache / "unet", options.seed)
    if options.report:
        report(options, trainer)
        return
    data = load_latents(options.cache)
    print(f"{len(data.latents)} scenes, from step {trainer.step}", flush=True)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return v_loss(model, *batch(data, 64, generator), generator), {}

    while trainer.step < plan.steps:
        trainer.run(loss, until=(trainer.step // 2000 + 1) * 2000)
        report(options, trainer)
