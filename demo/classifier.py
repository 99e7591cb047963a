"""Train the bundled classifier of green images: ``python3 dev.py train --classifier``.

Writes demo/weight_functions/green, a folder as transformers publishes classifiers. Half a minute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet
from torch.nn import functional as F

from .shapes import COLOURS, SIZE, random_batch

FOLDER = Path(__file__).with_name("weight_functions") / "green"
COLOUR = "green"
STEPS, BATCH, RATE = 1800, 64, 3e-3
MIXED, EVENNESS = 4, 0.3  # images of a mixture; below 1 one of them mostly leads

# In transformers' words: images in 0..255, brought to -1..1, whatever their size.
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": SIZE},
    "crop_pct": 1.0,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def mixtures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixtures of images [B, 3, 32, 32] in 0..1, and the share of green ones in each, [B].

    A denoised estimate early in a run is a mean of what the image may become. A classifier that
    has seen such means answers with shares of them there, and has a gradient; one that has seen
    images alone is sure of every mean, and has none.
    """
    images, _, colour = random_batch(count, generator)
    shares = Dirichlet(torch.full((MIXED,), EVENNESS)).sample((count,))
    partners = torch.randint(count, (count, MIXED), generator=generator)
    is_green = (colour == COLOURS.index(COLOUR)).float()
    mixed = (shares[:, :, None, None, None] * images[partners]).sum(dim=1)
    return mixed, (shares * is_green[partners]).sum(dim=1)


def network() -> Any:
    """A ResNet of 58,000 weights, untrained."""
    from transformers import ResNetConfig, ResNetForImageClassification

    names = [COLOUR, f"not {COLOUR}"]
    config = ResNetConfig(
        num_channels=3,
        embedding_size=16,
        hidden_sizes=[16, 32, 48],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    return ResNetForImageClassification(config)


def train(seed: int = 0, steps: int = STEPS, folder: Path = FOLDER) -> float:
    """Train and save; the mean loss of the last tenth of the steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        net = network().train()

        def loss() -> Tensor:
            images, share = mixtures(BATCH, generator)
            logits = net(pixel_values=2 * images - 1).logits
            return F.cross_entropy(logits, torch.stack([share, 1 - share], dim=1))

        losses = descend(net, loss, steps, RATE)
    save(net.eval(), folder)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def descend(net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> list[float]:
    """Train a network in place by AdamW; the losses of all steps.

    ``loss`` is that of the next batch; the learning rate falls from ``rate`` as a quarter cosine.
    """
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * math.cos(step / steps * math.pi / 2)
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    return losses


def save(net: Any, folder: Path) -> None:
    """Write the three files of a classifier's folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    settings = {**net.config.to_diff_dict(), "architectures": [type(net).__name__]}
    settings.pop("transformers_version", None)
    for name, content in (("config", settings), ("preprocessor_config", PROCESSOR)):
        text = json.dumps(content, indent=2, sort_keys=True)
        (folder / f"{name}.json").write_text(text + "\n", "utf-8")
