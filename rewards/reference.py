"""Reference image: more like a given one, in content (CLIP, SigLIP, DINOv2) or in style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import (
    CheckpointError,
    Weights,
    count_below,
    read_json,
    read_weights,
    vision_shapes,
)
from .clip import CosineReward, image_encoder
from .encoders import EncoderReward, ImageEncoder, described, from_transformers, try_grey
from .layouts import CLIP_L, DINO, DINOV2, IMAGES, SIGLIPS, SO400M, expect
from .pixels import root
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD
from .processors import from_settings, preprocessing_beside, read_settings
from .siglip import siglip_encoder


def reference_encoder(path: Path, dtype: torch.dtype) -> ImageEncoder:
    """A CLIP, SigLIP or DINOv2, by what the file holds.

    Raises:
        CheckpointError: the file is damaged or holds none of them.
    """
    weights = read_weights(path)
    expected = f"a DINOv2, such as {DINO}, a CLIP, such as {CLIP_L}, or a SigLIP, such as {SO400M}"
    layout = expect(weights, path, (DINOV2, *IMAGES, *SIGLIPS), expected)
    if any(key.endswith("layer_scale1.lambda1") for key in weights):
        return _dinov2(path, weights, dtype)
    return (siglip_encoder if layout in SIGLIPS else image_encoder)(path, dtype)


def _dinov2(path: Path, weights: Weights, dtype: torch.dtype) -> ImageEncoder:
    from transformers import Dinov2Config, Dinov2Model

    found = read_json(path.parent / "config.json")
    if found.get("model_type") == "dinov2":
        config = described(Dinov2Config, found, path)
    else:
        config = Dinov2Config(**_dinov2_shapes(weights, path))
    net = from_transformers(Dinov2Model, config, weights, path, torch.float32)
    published = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    found = read_settings(path.parent)
    look = preprocessing_beside(path, "dinov2") if found else from_settings(published, "dinov2")
    encoder = ImageEncoder(
        net, lambda net, pixels: net(pixel_values=pixels).pooler_output, look, config.hidden_size
    )
    try_grey(encoder, path)
    return encoder.to(dtype)


def _dinov2_shapes(weights: Weights, path: Path) -> dict[str, Any]:
    patch = "embeddings.patch_embeddings.projection.weight"
    shapes = vision_shapes(weights, patch, "embeddings.position_embeddings", 3, path)
    width = shapes["hidden_size"]
    if width not in (384, 768, 1024, 1536):
        raise CheckpointError(
            f"{path} is a DINOv2 of width {width}, which is no published size: put its "
            "config.json into the same folder."
        )
    return {
        **shapes,
        "num_hidden_layers": count_below(weights, "encoder.layer."),
        "num_attention_heads": width // 64,
        "use_swiglu_ffn": any("weights_in" in key for key in weights),
    }


class ReferenceReward(CosineReward):
    """Cosine of an image's features with a reference image's.

    Args:
        encoder: a CLIP, SigLIP or DINOv2.
        target: [1, D] features of the reference, see ``reference_features``.
    """

    name = "reference"
    scale = "cosine, about 0.2 for unrelated images to 1"
    default_strength = 100.0
    working_range = (20.0, 1000.0)
    strength_source = "as for a CLIP score; none published"


def reference_features(encoder: ImageEncoder, images: Tensor) -> Tensor:
    """Mean of the normalised features of one or more images [N, 3, H, W]: [1, D]."""
    with torch.no_grad():
        features = encoder(images)
    return torch.nn.functional.normalize(features, dim=1).mean(dim=0, keepdim=True)


class StyleReward(EncoderReward):
    """Minus the Frobenius distance of the Gram matrices of early CLIP features.

    Source: the style energy of FreeDoM (Yu et al., ICCV 2023, arXiv 2303.09833), which takes CLIP
    ViT-B/16's features after the third block, without the class token.

    Args:
        encoder: patch features [B, patches, width].
        reference: [1, 3, H, W], the image whose style is wanted.
    """

    name = "style"
    scale = "distance of Gram matrices, 0 at best; its size depends on the CLIP"
    working_range = (0.001, 1.0)
    default_strength = 0.05
    strength_source = "none published (FreeDoM's step does not depend on it); automatic is better"

    def __init__(self, encoder: ImageEncoder, reference: Tensor) -> None:
        super().__init__(encoder)
        with torch.no_grad():
            self.target = gram(encoder(reference)).mean(dim=0, keepdim=True).cpu()

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        matrices = gram(self.encoder(images))
        return -root((matrices - self.target.to(matrices.device)).square().sum(dim=(1, 2)))


def gram(features: Tensor) -> Tensor:
    """[B, patches, width] -> [B, width, width]: which features occur together, wherever."""
    return features.transpose(1, 2) @ features
