"""SigLIP and SigLIP 2 from disk: the image side, in the layout of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .checkpoint import (
    CheckpointError,
    Weights,
    count_below,
    read_json,
    read_weights,
    refuse_misfits,
    shape_of,
    vision_shapes,
    without,
)
from .encoders import ImageEncoder, described, from_transformers, is_large, recompute, try_grey
from .layouts import SIGLIP_BARE, SIGLIPS, SO400M, expect
from .processors import preprocessing_beside

VISION = "vision_model."
OTHERS = ("text_model.", "logit_scale", "logit_bias")  # of a whole model, not of its image side
HEADS = {768: 12, 1024: 16, 1152: 16, 1536: 16}  # of attention, by the published widths
GRID = 32  # pixels: every published size is a multiple of it


def siglip_encoder(path: Path, dtype: torch.dtype) -> ImageEncoder:
    """The pooled features of a SigLIP's image side, which its texts are compared with.

    Args:
        path: a SiglipModel or SiglipVisionModel of transformers (SigLIP 2 is one too, but for
            NaFlex); ``config.json`` and ``preprocessor_config.json`` in the same folder are read;
            the first is needed only for sizes that were never published.
        dtype: precision of the network.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    from transformers import SiglipVisionModel

    weights = read_weights(path)
    expect(weights, path, SIGLIPS, f"a SigLIP's image side, such as {SO400M}")
    mine = _image_side(weights, path)
    config = _config(path, mine)
    net = from_transformers(SiglipVisionModel, config, mine, path, torch.float32)
    large = is_large(net)
    if large:
        inner: Any = getattr(net, "vision_model", net)  # transformers 5 has no such part
        recompute(inner.encoder.layers)
    look = preprocessing_beside(path, "siglip")
    encoder = ImageEncoder(
        net,
        lambda net, pixels: net(pixel_values=pixels).pooler_output,
        look,
        config.hidden_size,
        recomputes=large,
    )
    try_grey(encoder, path)
    return encoder.to(dtype)


def _image_side(weights: Weights, path: Path) -> Weights:
    """Its weights, under the names that they have in a whole model; strays are an error."""
    if SIGLIP_BARE.fits({key: value.shape for key, value in weights.items()}):
        return {VISION + key: value for key, value in weights.items()}
    weights = without(weights, ["*.position_ids"])
    strays = [key for key in weights if not key.startswith((VISION, *OTHERS))]
    if strays:
        refuse_misfits(path, [], strays)
    return {key: value for key, value in weights.items() if key.startswith(VISION)}


def _config(path: Path, weights: Weights) -> Any:
    """A SiglipVisionConfig: the one beside the file, or the published one with these shapes."""
    from transformers import SiglipConfig, SiglipVisionConfig

    found = read_json(path.parent / "config.json")
    if found.get("model_type") == "siglip":
        return described(SiglipConfig, found, path).vision_config
    if found.get("model_type") == "siglip_vision_model":
        return described(SiglipVisionConfig, found, path)
    return SiglipVisionConfig(**_shapes(weights, path))


def _shapes(weights: Weights, path: Path) -> dict[str, Any]:
    patch, places = (
        f"{VISION}embeddings.{name}_embedding.weight" for name in ("patch", "position")
    )
    shapes = vision_shapes(weights, patch, places, 2, path, tokens=0)
    # 27 patches of 14 pixels are 378: such a network reads 384, and nothing of the last six.
    size, width = -(-shapes["image_size"] // GRID) * GRID, shapes["hidden_size"]
    if (
        width not in HEADS
        or size // shapes["patch_size"] * shapes["patch_size"] != shapes["image_size"]
    ):
        raise CheckpointError(
            f"{path} is a SigLIP of width {width} for images of {shapes['image_size']} pixels, "
            "which is no published size: put its config.json into the same folder."
        )
    return {
        **shapes,
        "image_size": size,
        "intermediate_size": shape_of(weights, VISION + "encoder.layers.0.mlp.fc1.weight", 2, path)[
            0
        ],
        "num_hidden_layers": count_below(weights, VISION + "encoder.layers."),
        "num_attention_heads": HEADS[width],
    }
