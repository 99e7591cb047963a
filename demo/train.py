"""Train the demo model on images drawn as it goes: ``python3 dev.py train``.

Writes demo/shapes.safetensors. About an hour on two cores with bfloat16 instructions.
``python3 dev.py train scenes-vae`` and the stages after it are in ``demo/scenes/training``.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from . import classifier
from .model import LABELS, PIXEL_SCALE, WEIGHTS, DemoUNet, load_network, precondition
from .scenes.training import stages
from .shapes import SHAPES, random_batch

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -0.4, 1.4
DROP_LABEL = 0.2  # each of the two labels is dropped on its own


def training_batch(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images in model space [B, 3, 32, 32] and their context [B, 1, labels]."""
    images, shape, colour = random_batch(count, generator)
    context = torch.zeros(count, LABELS)
    context.scatter_(1, shape[:, None], 1.0)
    context.scatter_(1, colour[:, None] + len(SHAPES), 1.0)
    keep = (torch.rand(count, 2, generator=generator) >= DROP_LABEL).float()
    context[:, : len(SHAPES)] *= keep[:, :1]
    context[:, len(SHAPES) :] *= keep[:, 1:]
    return PIXEL_SCALE * (2 * images - 1), context.unsqueeze(1)


def denoising_loss(network: DemoUNet, x0: Tensor, context: Tensor, generator) -> Tensor:
    """EDM's loss: squared error of the denoised image, weighted to equal size at every sigma.

    Source: Karras et al. 2022, table 1.
    """
    sigma = (torch.randn(x0.shape[0], generator=generator) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
    noise = torch.randn(x0.shape, generator=generator)
    x = x0 + sigma.view(-1, 1, 1, 1) * noise
    with torch.autocast("cpu", dtype=torch.bfloat16):
        denoised = precondition(network, x, sigma, context)
    weight = (1 + sigma**2) / sigma**2
    return ((denoised.float() - x0) ** 2).mean(dim=(1, 2, 3)).mul(weight).mean()


def main(arguments: list[str] | None = None) -> None:
    """Train, print the loss now and then, and save the averaged weights as float16."""
    from safetensors.torch import save_file

    if arguments and arguments[0].startswith("scenes-"):
        stages.main(arguments)
        return

    parser = argparse.ArgumentParser(prog="dev.py train", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to train")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="go on from these weights")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--classifier", action="store_true", help="train that of green images")
    options = parser.parse_args(arguments)
    if options.classifier:
        print(f"loss {classifier.train(options.seed):.4f}, saved {classifier.FOLDER}")
        return

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    network = DemoUNet()
    if options.resume:
        network.load_state_dict(load_network(options.resume).state_dict())
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), options.rate, weight_decay=0.01)
    start, step, smooth = time.time(), 0, 1.0
    while (progress := (time.time() - start) / (60 * options.minutes)) < 1:
        warm = min(1.0, (step + 1) / 500)
        optimiser.param_groups[0]["lr"] = options.rate * warm * math.cos(progress * math.pi / 2)
        loss = denoising_loss(network, *training_batch(options.batch, generator), generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(0.9995, (step + 1) / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        smooth += 0.01 * (loss.item() - smooth)
        step += 1
        if step % 500 == 0:
            print(f"step {step:6d}  {time.time() - start:6.0f} s  loss {smooth:.4f}", flush=True)
            save(average, options.out, save_file)
    save(average, options.out, save_file)
    print(f"{step} steps of {options.batch}: loss {smooth:.4f}, saved {options.out}")


def save(network: DemoUNet, path: Path, save_file) -> None:
    """Write the weights as float16 safetensors."""
    half = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(half, path)
