"""What a preference model costs as a weight: time over its network's own, and memory.

The network is a CLIP vision model of random weights, of the size of PickScore's (H) or of the
aesthetic score's (L). A weight adds resizing the image and bringing its gradient back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..guidance import AutogradLogWeight
from ..rewards import PickScore, Weight
from ..rewards.encoders import ImageEncoder, is_large, recompute
from ..rewards.preprocessing import Preprocessing
from ._memory import saved_bytes
from ._report import interleaved_seconds, parser, report

SIZES: dict[str, dict[str, Any]] = {
    "H": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
    "L": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12},
}


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("weight", __doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=["H", "L"])
    options.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    options.add_argument("--repeats", type=int, default=5)
    choice = options.parse_args(arguments)
    report([measure(size, choice.side, choice.repeats) for size in choice.sizes], choice.json)


def measure(size: str, side: int, repeats: int) -> dict[str, object]:
    """One row: seconds of network and weight, bytes kept with and without recomputing."""
    net = vision_model(size)
    encoder = ImageEncoder(net, image_embeds, Preprocessing(224), 1024, logit_scale=100.0)
    pixels = torch.randn(1, 3, 224, 224)
    weights = list(net.parameters())
    plain = saved_bytes(lambda: image_embeds(net, pixels.requires_grad_()), weights)
    if is_large(net) or size == "tiny":
        recompute(net.vision_model.encoder.layers)
    kept = saved_bytes(lambda: image_embeds(net, pixels.requires_grad_()), weights)

    reward = PickScore(encoder, torch.randn(1, 1024))
    log_weight = AutogradLogWeight(Weight.of(reward, 100.0), "PickScore")
    picture = torch.rand(1, 3, side, side)
    runs = {
        "network": lambda: own_gradient(net, pixels),
        "weight": lambda: log_weight.value_and_grad(picture),
    }
    for run in runs.values():
        run()  # the first one pays for warming up
    seconds = interleaved_seconds(runs, repeats)
    return {
        "method": f"CLIP ViT-{size}" if size != "tiny" else "tiny",
        "network, s": seconds["network"],
        f"weight at {side}, s": seconds["weight"],
        "weight / network": seconds["weight"] / seconds["network"],
        "kept, MB": kept / 1e6,
        "kept without recomputing, MB": plain / 1e6,
        "share kept": kept / plain,
    }


def vision_model(size: str) -> Any:
    """A CLIP vision model of random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        **SIZES[size], num_attention_heads=16, patch_size=14, projection_dim=1024, hidden_act="gelu"
    )
    return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def image_embeds(net: Any, pixels: Tensor) -> Tensor:
    """Its features [B, 1024]."""
    return net(pixel_values=pixels).image_embeds


def own_gradient(net: Any, pixels: Tensor) -> Tensor:
    """The network's forward and backward pass, from its own pixels."""
    leaf = pixels.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(image_embeds(net, leaf).sum(), leaf)
    return gradient
